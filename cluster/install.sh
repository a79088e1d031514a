#!/bin/sh
# Install raybench from the bundle that this file lies in; no network is needed.
#   ./install.sh FOLDER [PYTHON]      FOLDER becomes a virtual environment
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${1:?usage: install.sh FOLDER [PYTHON]}
python=${2:-python3}

want=$(cat "$here/PYTHON")
have=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$have" != "$want" ]; then
    echo "error: the wheels are for Python $want and $python is $have; name another: install.sh $target PYTHON" >&2
    exit 2
fi
if ! (cd "$here" && sha256sum --check --quiet SHA256SUMS >&2); then
    echo "error: the bundle is damaged or incomplete; copy it again" >&2
    exit 2
fi

"$python" -m venv "$target"
# The list is complete and was resolved when the bundle was made.
"$target/bin/python" -m pip --isolated --disable-pip-version-check --quiet install \
    --no-index --find-links "$here/wheels" --no-deps --requirement "$here/requirements.txt"
"$target/bin/raybench" --help > /dev/null
echo "installed: $target/bin/raybench"
if [ -d "$here/weights" ]; then
    echo "weights: export RAYBENCH_WEIGHTS=$here/weights"
fi
