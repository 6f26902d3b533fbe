"""scGPT in plain PyTorch: the model, its tokeniser and its checkpoint folders.

Written from the published architecture (Cui et al. 2024, Nature Methods) and held to the `scgpt`
package by tests/test_scgpt_oracle.py. Import the submodules: `model` and `checkpoint` need torch,
`tokenizer` needs only NumPy and SciPy.
"""
