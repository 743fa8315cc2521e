"""Request of `methods.circuits.profile`."""

from __future__ import annotations

from pytest_mechanism.measurements.path_patching import PathPatching


class EffectProfile(PathPatching):
    """How much of what the prompt does to the answer's logit goes through each sender's path?

    The paths and their cost are those of path patching; only what is read off the logits differs.
    """

    implementation = "pytest_mechanism.methods.circuits.profile:measure"
