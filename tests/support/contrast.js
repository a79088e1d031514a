// The visible texts whose contrast with what is behind them is below 4.5 (WCAG 2.2), as a list of words.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = ([red, green, blue]) =>
    0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== "none") return style.backgroundImage.match(/rgba?\([^)]*\)/g).map(rgba);
      if (rgba(style.backgroundColor)[3] === 255) return [rgba(style.backgroundColor)];
    }
    return [[255, 255, 255]];
  };
  const low = new Set();
  for (const element of document.querySelectorAll(".view:not([hidden]) *, header *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!hasText || !element.checkVisibility() || element.closest(".unseen, title")) continue;
    const style = getComputedStyle(element);
    const ink = luminance(rgba(element instanceof SVGElement ? style.fill : style.color));
    for (const ground of behind(element)) {
      const [lighter, darker] = [ink, luminance(ground)].sort((a, b) => b - a);
      const contrast = (lighter + 0.05) / (darker + 0.05);
      if (contrast < 4.5) low.add(`${element.tagName} ${element.textContent.slice(0, 20)} ${contrast.toFixed(2)}`);
    }
  }
  return [...low];
}
