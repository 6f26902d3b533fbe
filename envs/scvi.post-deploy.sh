#!/usr/bin/env bash
# Run by Snakemake inside the environment of scvi.yaml; versions as in requirements-scvi.txt.
set -euo pipefail
python -m pip install absl-py==2.5.1 grpcio==1.85.1 lightning-utilities==0.15.3 lightning==2.6.6 Markdown==3.11.3 ml_collections==1.1.0 mudata==0.3.10 opt_einsum==3.4.0 protobuf==7.36.2 pyro-api==0.1.2 pyro-ppl==1.9.2 pytorch-lightning==2.6.6 scikit-misc==0.5.3 scvi-tools==1.4.2 sparse==0.19.3 tensorboard-data-server==0.7.2 tensorboard==2.21.0 torchmetrics==1.9.0 Werkzeug==3.1.9
