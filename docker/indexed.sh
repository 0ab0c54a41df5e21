#!/bin/sh
# Runs pip or uv of the tools stage with the package index that pip was told: indexed pip|uv ARGUMENTS
# From the build arguments PIP_INDEX_URL and PIP_EXTRA_INDEX_URL, and from the secrets pip.conf and ca.crt where they
# are given; none of it stays in the image. uv does not read pip's settings, so they are handed to it.
# A package that the extra index has is taken from there alone: no other index can put a higher version in its place.
set -eu
if [ -s /run/secrets/ca.crt ]; then
    export PIP_CERT=/run/secrets/ca.crt SSL_CERT_FILE=/run/secrets/ca.crt
fi
if [ -s /run/secrets/pip.conf ]; then
    export PIP_CONFIG_FILE=/run/secrets/pip.conf
fi
tools=/opt/tools/venv/bin
if [ "$1" = uv ]; then
    configured() { "$tools/pip" config get "global.$1" 2>/dev/null || true; }
    export UV_DEFAULT_INDEX="${PIP_INDEX_URL:-$(configured index-url)}"
    export UV_INDEX="${PIP_EXTRA_INDEX_URL:-$(configured extra-index-url)}"
fi
program=$tools/$1
shift
exec "$program" "$@"
