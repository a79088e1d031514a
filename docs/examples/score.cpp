// Score one image with a file that `raybench export` wrote: score FILE.onnx PIXELS
//
// PIXELS holds an image as the camera delivers it: rows of pixels, one value (grey) or three (RGB) each, of 8 bits or
// of 16 bits in the byte order of this machine. Needs onnxruntime 1.20 or later and nothing else:
//
//   g++ -std=c++17 -I$ORT/include score.cpp -L$ORT/lib -lonnxruntime -o score

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: score FILE.onnx PIXELS");
  Ort::Env env;
  Ort::Session session(env, std::filesystem::path(argv[1]).c_str(), Ort::SessionOptions{});

  const auto info = session.GetInputTypeInfo(0);
  const auto input = info.GetTensorTypeAndShapeInfo();  // (1, height, width, channels), uint8 or uint16
  const auto shape = input.GetShape();
  const auto type = input.GetElementType();
  const std::size_t bytes = input.GetElementCount() * (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16 ? 2 : 1);

  std::ifstream file(argv[2], std::ios::binary);
  std::vector<char> pixels{std::istreambuf_iterator<char>(file), {}};
  if (pixels.size() != bytes) throw std::runtime_error("the image has another size or type than the file takes");

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto image = Ort::Value::CreateTensor(memory, pixels.data(), bytes, shape.data(), shape.size(), type);
  const char* inputs[] = {"image"};
  const char* outputs[] = {"score", "heatmap", "is_anomalous"};
  const auto found = session.Run(Ort::RunOptions{}, inputs, &image, 1, outputs, 3);

  const double score = found[0].GetTensorData<double>()[0];
  const float* heatmap = found[1].GetTensorData<float>();  // (height, width)
  const bool is_anomalous = found[2].GetTensorData<bool>()[0];
  std::cout.precision(9);
  std::cout << score << ' ' << is_anomalous << ' ' << *std::max_element(heatmap, heatmap + shape[1] * shape[2]) << '\n';
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
