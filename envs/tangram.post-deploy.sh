#!/usr/bin/env bash
# Run by Snakemake inside the environment of tangram.yaml; version as in requirements-tangram.txt.
set -euo pipefail
python -m pip install tangram-sc==1.0.4
