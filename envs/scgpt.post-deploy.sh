#!/usr/bin/env bash
# Run by Snakemake inside the environment of scgpt.yaml. The dependencies that scgpt declares do not resolve
# with current versions; its model needs none of them.
set -euo pipefail
python -m pip install --no-deps scgpt==0.2.4
