"""Steering: the model run with interventions, and what they predict held against real perturbations.

``interventions`` says what is done to hidden states, ``inputs`` to the tokens, ``engine`` runs the model
with it, ``readouts`` says what is read; ``screen`` reads perturbation data; the other modules judge.
"""
