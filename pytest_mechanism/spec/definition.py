"""What a claim's score measures, as a hash: scores of two definitions are not compared."""

from __future__ import annotations

import hashlib

from pytest_mechanism.claims.base import Claim
from pytest_mechanism.spec.spec import Spec
from pytest_mechanism.types import canonical


def definition(spec: Spec, claim: Claim) -> str:
    """Hash of everything in a spec that defines what a claim's score measures.

    Thresholds, tolerances and the severity do not count. Nor do fields that a later version added, as long as they hold
    their defaults, which mean what the spec meant without them.
    """
    ignored = {"drift", "atol", "severity", *claim.thresholds}
    defaults = type(claim).model_fields
    ignored |= {n for n in claim.added_later if getattr(claim, n) == defaults[n].get_default()}
    parts = {
        "claim": claim.model_dump(mode="json", exclude=ignored, by_alias=True),
        **spec.definition(),
        **({"edition": spec.task.edition} if spec.task.edition else {}),
    }
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]
