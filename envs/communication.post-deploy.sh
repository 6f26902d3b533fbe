#!/usr/bin/env bash
# Run by Snakemake inside the environment of communication.yaml; versions as in requirements-communication.txt.
set -euo pipefail
python -m pip install liana==1.10.0 mudata==0.3.10 mizani==0.14.6 plotnine==0.15.9
