"""What a trained dictionary is worth: loss recovered, stability over seeds, absorption.

Apart from ``sae``, so that an edit here trains nothing again.
"""
