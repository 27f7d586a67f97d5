#!/bin/sh
# Makes the image localhost/app:1 out of a few programs of the tree, without a registry.
set -eu
image=$(mktemp -d)
for program in sh cat sleep; do
    mkdir -p "$image/bin"
    cp "$(command -v $program)" "$image/bin/"
    ldd "$(command -v $program)" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$image$(dirname "$library")"
        cp "$library" "$image$library"
    done
done
tar -C "$image" -c . | podman import --quiet - localhost/app:1
