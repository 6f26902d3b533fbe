#!/usr/bin/env bash
# Run by Snakemake inside the environment of mofa.yaml; version as in requirements-mofa.txt.
set -euo pipefail
python -m pip install mofapy2==0.7.5
