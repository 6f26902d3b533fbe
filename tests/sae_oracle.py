"""What the real sae-lens and dictionary-learning do: run by test_sae_oracle in an environment of its own.

python sae_oracle.py lens <folder>      load every dictionary below it and encode and decode x.npy
python sae_oracle.py write <folder>     write dictionaries with sae-lens itself, random weights, all kinds
python sae_oracle.py learning <folder>  train dictionary-learning on tokens.npy as settings.json says
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ["WANDB_MODE"] = "disabled"


def through(sae, x, path):
    import torch

    with torch.no_grad():
        code = sae.encode(torch.from_numpy(x))
        np.savez(path, code=code.numpy(), reconstruction=sae.decode(code).numpy())


def lens(folder):
    from sae_lens import SAE

    x = np.load(folder / "x.npy")
    for cfg in sorted(folder.glob("*/cfg.json")):
        through(SAE.load_from_disk(cfg.parent), x, cfg.parent / "oracle.npz")


def write(folder):
    import torch
    from sae_lens import SAE

    x = np.load(folder / "x.npy")
    torch.manual_seed(0)
    for kind, more in (("standard", {}), ("jumprelu", {}), ("gated", {}), ("topk", {"k": 3})):
        for centred in (True, False):
            sae = SAE.from_dict(
                {"architecture": kind, "d_in": x.shape[1], "d_sae": 40, "dtype": "float32", "device": "cpu",
                 "apply_b_dec_to_input": centred, **more}
            )  # fmt: skip
            with torch.no_grad():
                for name, value in sae.named_parameters():
                    value.copy_(0.5 * torch.randn(value.shape))
                    if name == "threshold":
                        value.abs_()
            place = folder / f"{kind}_{centred}"
            sae.save_model(place)
            through(sae, x, place / "oracle.npz")


def learning(folder):
    import torch
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    settings = json.loads((folder / "settings.json").read_text())
    tokens = torch.from_numpy(np.load(folder / "tokens.npy"))
    order = np.load(folder / "order.npy")
    torch.set_num_threads(1)
    steps = len(order)
    trainer = BatchTopKTrainer(
        steps=steps, activation_dim=tokens.shape[1], dict_size=settings["n_features"], k=settings["k"],
        layer=0, lm_name="none", lr=settings["learning_rate"], warmup_steps=steps // 20,
        decay_start=int(0.8 * steps), threshold_start_step=steps // 2, seed=1, device="cpu",
    )  # fmt: skip
    trainer.dead_feature_threshold = settings["dead_after_tokens"]
    for step, rows in enumerate(order):
        trainer.update(step, tokens[rows])
    torch.save(trainer.ae.state_dict(), folder / "ae.pt")
    config = {"trainer": {key: value for key, value in trainer.config.items() if key != "dict_class"}}
    config["trainer"]["dict_class"] = "BatchTopKSAE"
    (folder / "config.json").write_text(json.dumps(config))
    through(trainer.ae, np.load(folder / "x.npy"), folder / "oracle.npz")


if __name__ == "__main__":
    {"lens": lens, "write": write, "learning": learning}[sys.argv[1]](Path(sys.argv[2]))
