"""Training speed of dictionaries against dictionary-learning and eai-sparsify, in one process.

    make soak-env
    .venv-soak/bin/python benchmarks/sae_training.py [--threads 2] [--steps 60] [--device cpu]

``make soak-env`` builds the environment that has the peers. All trainers see the same batches (tokens that
are sums of planted directions, mean squared norm d) and start from the same weights, with the same schedule
of learning rates; the peers as they come: dictionary-learning's trainers' ``update``, and sparsify's
SparseCoder in a minimal loop (Adam, unit-norm decoder, AuxK on dead features). The encoder rows of ``--weak``
features (d / 2 unless set, as many as AuxK uses of a token) start at a tenth of their norm in all trainers,
too weak to be chosen: after ``--dead-after`` tokens they are dead and AuxK is at work. Speed is the median
step of the second half, trainers taking turns, and ``dead`` the mean count in it; FVU is that of a held-out
batch after the last step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

D, FEATURES, K, BATCH, ATOMS = 512, 4096, 32, 4096, 2048


def batches(torch, n, seed=20_241):
    """``n`` batches float32 (BATCH × D) of sums of about K of ATOMS directions, with 10 % noise.

    The seed must not be that of a trainer: the planted directions would be its initial decoder.
    """
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(ATOMS, D, generator=generator))
    popularity = 1 / (1 + torch.arange(ATOMS)) ** 0.5
    result = []
    for _ in range(n):
        chosen = torch.multinomial(popularity.expand(BATCH, -1), K, generator=generator)
        amplitude = 1 + torch.rand(BATCH, K, generator=generator)
        code = torch.zeros(BATCH, ATOMS).scatter_(1, chosen, amplitude)
        x = code @ atoms
        x += 0.1 * x.std() * torch.randn(x.shape, generator=generator)
        result.append(x * (D / x.square().sum(1).mean()).sqrt())
    return result


class Rows:
    """The face of a token buffer that a trainer needs, over batches in memory."""

    layer, paths, d, batch_tokens = 0, (Path("memory"),), D, BATCH

    def __init__(self, data):
        self.data, self.step = data, 0

    def fingerprint(self):
        return {}

    def sample(self):
        return self.data[0].numpy()

    def batch(self):
        self.step += 1
        return self.data[(self.step - 1) % len(self.data)].numpy()


def start(encoder, decoder, options):
    """Set encoder and decoder rows (features × d), in place, to the same unit rows for all trainers."""
    import torch

    rows = torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(options.seed))
    rows = torch.nn.functional.normalize(rows).to(encoder.device)
    encoder.data.copy_(rows)
    decoder.data.copy_(rows)
    encoder.data[: options.weak] *= 0.1


class Ours:
    def __init__(self, data, architecture, options):
        from interptfm.sae import training

        settings = {
            "architecture": architecture, "n_features": FEATURES, "k": K, "batch_tokens": BATCH,
            "training_tokens": BATCH * options.steps, "learning_rate": options.learning_rate,
            "dead_after_tokens": options.dead_after,
        }  # fmt: skip
        settings = training.complete_settings(settings)
        self.trainer = training.Trainer(Rows(data), settings, 0, options.device)
        self.trainer.log_every = 10**9
        parameters = self.trainer.model.parameters
        start(parameters["W_enc"], parameters["W_dec"], options)

    def step(self, number, x):
        self.trainer.advance()

    def dead(self):
        return len(self.trainer.dead)

    def reconstruct(self, x):
        import torch

        model, scale = self.trainer.model, self.trainer.scale
        with torch.no_grad():
            return (x * scale - model.loss(x * scale, self.trainer.dead[:0]).residual) / scale


class DictionaryLearning:
    def __init__(self, data, name, options):
        from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
        from dictionary_learning.trainers.top_k import TopKTrainer

        kind = {"batchtopk": BatchTopKTrainer, "topk": TopKTrainer}[name]
        self.trainer = kind(
            steps=options.steps, activation_dim=D, dict_size=FEATURES, k=K, layer=0, lm_name="none",
            lr=options.learning_rate, warmup_steps=max(1, options.steps // 20),
            decay_start=int(0.8 * options.steps), threshold_start_step=0, seed=0, device=options.device,
        )  # fmt: skip
        self.trainer.dead_feature_threshold = options.dead_after
        start(self.trainer.ae.encoder.weight, self.trainer.ae.decoder.weight.T, options)

    def step(self, number, x):
        self.trainer.update(number, x)

    def dead(self):
        return self.trainer.dead_features

    def reconstruct(self, x):
        import torch

        with torch.no_grad():
            ae = self.trainer.ae
            return ae.decode(ae.encode(x, use_threshold=False))


class Sparsify:
    def __init__(self, data, options):
        import torch

        if options.device == "cpu":
            os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its own switch: Triton needs a GPU
        from sparsify import SparseCoder, SparseCoderConfig

        self.torch, self.options = torch, options
        self.coder = SparseCoder(D, SparseCoderConfig(num_latents=FEATURES, k=K), device=options.device)
        start(self.coder.encoder.weight, self.coder.W_dec, options)
        self.coder.b_dec.data = data[0].mean(0).to(options.device)
        self.optimiser = torch.optim.Adam(self.coder.parameters(), lr=options.learning_rate, fused=True)
        self.since = torch.zeros(FEATURES, dtype=torch.long, device=options.device)

    def step(self, number, x):
        from interptfm.sae.training import learning_rate

        torch, options = self.torch, self.options
        schedule = {
            "warmup_fraction": 0.05, "decay_fraction": 0.2, "learning_rate": options.learning_rate
        }  # fmt: skip
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(number, options.steps, schedule)
        self.coder.set_decoder_norm_to_unit_norm()
        out = self.coder(x, dead_mask=self.since >= options.dead_after)
        self.optimiser.zero_grad(set_to_none=True)
        (out.fvu + out.auxk_loss / 32).backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        fired = torch.zeros(FEATURES, dtype=torch.bool, device=x.device)
        fired[out.latent_indices.flatten()] = True
        self.since = torch.where(fired, 0, self.since + len(x))

    def dead(self):
        return int((self.since >= self.options.dead_after).sum())

    def reconstruct(self, x):
        with self.torch.no_grad():
            return self.coder(x).sae_out


def matmul_rate(torch, device):
    """GFLOP/s of the encoder's forward product, the floor of a step."""
    x, w = torch.randn(BATCH, D, device=device), torch.randn(FEATURES, D, device=device)
    out = torch.empty(BATCH, FEATURES, device=device)
    times = []
    for _ in range(12):
        synchronise(torch, device)
        start = time.perf_counter()
        torch.mm(x, w.T, out=out)
        synchronise(torch, device)
        times.append(time.perf_counter() - start)
    return 2 * BATCH * D * FEATURES / statistics.median(times[2:]) / 1e9


def synchronise(torch, device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dead-after", type=int, default=5 * BATCH)
    parser.add_argument("--weak", type=int, default=D // 2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=None)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    data = batches(torch, 24)
    *train, held_out = data
    train = [x.to(options.device) for x in train]
    held_out = held_out.to(options.device)
    host = [x.cpu() for x in train]
    makers = {
        "interpTFM batchtopk": lambda: Ours(host, "batchtopk", options),
        "interpTFM topk": lambda: Ours(host, "topk", options),
        "dictionary-learning BatchTopK": lambda: DictionaryLearning(train, "batchtopk", options),
        "dictionary-learning TopK": lambda: DictionaryLearning(train, "topk", options),
        "sparsify SparseCoder": lambda: Sparsify(train, options),
    }
    trainers = {name: make() for name, make in makers.items() if not options.only or name in options.only}
    rate = matmul_rate(torch, options.device)
    times: dict[str, list[float]] = {name: [] for name in trainers}
    dead: dict[str, list[int]] = {name: [] for name in trainers}
    for number in range(options.steps):
        x = train[number % len(train)]
        for name, trainer in trainers.items():
            synchronise(torch, options.device)
            start = time.perf_counter()
            trainer.step(number, x)
            synchronise(torch, options.device)
            times[name].append(time.perf_counter() - start)
            dead[name].append(trainer.dead())
    variance = (held_out - held_out.mean(0)).square().sum()
    print(f"load {os.getloadavg()[0]:.2f}, {options.threads} threads, torch {torch.__version__}, "
          f"matmul {rate:.0f} GFLOP/s")  # fmt: skip
    floor = rate * 1e9 / (2 * D * FEATURES)
    half = options.steps // 2
    rows = {}
    for name, trainer in trainers.items():
        speed = BATCH / statistics.median(times[name][half:])
        error = held_out - trainer.reconstruct(held_out)
        rows[name] = {
            "tokens_per_second": round(speed), "share_of_floor": round(speed / floor, 3),
            "fvu": round(float(error.square().sum() / variance), 4),
            "dead": round(statistics.mean(dead[name][half:])),
        }  # fmt: skip
    peers = [row["tokens_per_second"] for name, row in rows.items() if not name.startswith("interpTFM")]
    for name, row in rows.items():
        if peers and name.startswith("interpTFM"):
            row["times_the_faster_peer"] = round(row["tokens_per_second"] / max(peers), 2)
        print(json.dumps({name: row}))
    print(f"floor (the encoder's forward product alone): {floor:.0f} tokens/s")
    assert np.isfinite([row["fvu"] for row in rows.values()]).all()


if __name__ == "__main__":
    main()
