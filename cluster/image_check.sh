#!/bin/sh
# Scan an image bundle for known vulnerabilities of its operating system and packages, and sign its SHA256SUMS, with what is at hand:
# Trivy or Grype, and cosign where COSIGN_KEY names a key. Run by `make bundle-image`; says what was not done.
# SEVERITY is what fails the check, with a fix at hand: CRITICAL by default.
set -eu
bundle=${1:?the folder that make bundle-image writes}
severity=${SEVERITY:-CRITICAL}
if command -v trivy >/dev/null; then
    trivy image --input "$bundle/raybench-image.tar" --severity "$severity" --ignore-unfixed --exit-code 1
elif command -v grype >/dev/null; then
    grype "oci-archive:$bundle/raybench-image.tar" --only-fixed --fail-on "$(printf %s "$severity" | tr '[:upper:]' '[:lower:]')"
else
    echo "image-check: not scanned, there is neither Trivy nor Grype here"
fi
if command -v cosign >/dev/null && [ -n "${COSIGN_KEY:-}" ]; then
    cosign sign-blob --yes --tlog-upload=false --key "$COSIGN_KEY" --output-signature "$bundle/SHA256SUMS.sig" "$bundle/SHA256SUMS"
    echo "image-check: signed; check it with cosign verify-blob, see docs/air-gapped.md"
else
    echo "image-check: not signed, there is no cosign here or COSIGN_KEY names no key"
fi
