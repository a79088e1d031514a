#!/bin/sh
# Try the overlay `kind` in a cluster that is made for it and removed again: the head comes up, without a token it answers
# 401, a pod reaches the store and nothing else, and `raybench doctor` finds nothing to mend on any node. Run by `make kind-check`.
# It takes KubeRay's Helm repository, or its mirror, by the name `kuberay`.
set -eu
for tool in kind kubectl helm docker; do
    command -v "$tool" >/dev/null || { echo "kind-check: not run, there is no $tool here"; exit 0; }
done
docker info >/dev/null 2>&1 || { echo "kind-check: not run, Docker's daemon is not running"; exit 0; }
cd "$(dirname "$0")/.."

docker build --quiet --file cluster/Dockerfile --tag localhost/raybench:kind .
trap 'kind delete cluster --name raybench-check' EXIT
kind create cluster --name raybench-check --wait 3m
kind load docker-image --name raybench-check localhost/raybench:kind
helm install kuberay-operator kuberay/kuberay-operator --version 1.5.1 \
    --namespace kuberay-operator --create-namespace --wait
kubectl create namespace raybench
kubectl config set-context --current --namespace raybench
kubectl create secret generic raybench-s3 --from-literal=AWS_ACCESS_KEY_ID=check \
    --from-literal="AWS_SECRET_ACCESS_KEY=$(head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n')"
kubectl apply -k cluster/kuberay/overlays/kind
kubectl wait --for=condition=available --timeout=5m deployment/s3
kubectl wait --for=condition=HeadPodReady --timeout=10m raycluster/raybench
kubectl wait --for=condition=ready --timeout=10m pod -l app.kubernetes.io/component=helper

helper=$(kubectl get pod -l app.kubernetes.io/component=helper -o name)
in_helper() { kubectl exec "$helper" -c ray-worker -- /opt/venv/bin/python -c "$1"; }
in_helper 'from raybench.store import open_store; open_store("s3://raybench/bench").create()'
in_helper 'import urllib.request, urllib.error
try: urllib.request.urlopen("http://raybench-head-svc:8265/api/jobs/", timeout=10)
except urllib.error.HTTPError as error: assert error.code == 401, error
else: raise SystemExit("the Jobs API answers without a token")'
in_helper 'import socket
try: socket.create_connection(("1.1.1.1", 443), timeout=5)
except OSError: pass
else: raise SystemExit("the network policy is not enforced: a pod reaches the internet")'
printf 'name: check\nstore: s3://raybench/bench\nlines: ["*"]\nmodels: [padim]\n' |
    kubectl exec --stdin "$helper" -c ray-worker -- sh -c 'cat > /tmp/check.yaml && /opt/venv/bin/raybench doctor /tmp/check.yaml --address auto'
echo "kind-check: the overlay kind works"
