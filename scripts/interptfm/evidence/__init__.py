"""The chain of evidence: feature → term → compartment → channel edge → stain, seeds, steering.

``feature_links`` measures what a feature does in cells (compartment, stain), ``term_links`` looks up what
other stages found for a term (channel edge, steering), ``grading`` puts rows together and grades them,
``permuted`` repeats the chain where terms mean nothing, ``funnel`` counts what passes, ``analysis`` does all.

A link of a row is ``supported``, ``not supported``, or missing with the reason. Missing never counts.
"""

from __future__ import annotations

# After alignment, in the order of the funnel.
LINKS = ("compartment", "channel", "stain", "stability", "steering")
# Those that a grade counts. Where seeds are compared, alignment takes stable features only: the link is then
# supported in every row and tells none from another.
COUNTED = tuple(link for link in LINKS if link != "stability")
SUPPORTED, NOT_SUPPORTED = "supported", "not supported"
NOT_TESTED, NOT_COMPUTED, NOT_MEASURED, NOT_AVAILABLE = (
    "not tested", "not computed", "not measured", "not available",
)  # fmt: skip
STRONG, MODERATE, EXPLORATORY = GRADES = ("strong", "moderate", "exploratory")
