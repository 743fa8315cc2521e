"""Entries of a config that reach beyond the folder: kernels of the hub, imported libraries, other files.

They are refused like code of the checkpoint's own (`checkpoints.trust`), at any depth of the config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_mechanism.checkpoints.quantisers import quantiser_problem
from pytest_mechanism.checkpoints.trust import CLASS, TRUST_REMOTE_CODE, Trust

ATTENTION = {"eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"}
EXPERTS = {"eager", "batched_mm", "grouped_mm"}
"""Implementations of attention and of experts in torch or an installed library. transformers takes any
other name for a kernel, which it would fetch from the hub and run."""

KINDS = {
    "attn_implementation": ATTENTION,
    "_attn_implementation": ATTENTION,
    "_attn_implementation_internal": ATTENTION,
    "experts_implementation": EXPERTS,
    "_experts_implementation": EXPERTS,
    "_experts_implementation_internal": EXPERTS,
}

NOT_FOLLOWED = ("transformers_weights", "configuration_files", "use_pretrained_backbone")
"""Keys that name files which are neither checked nor hashed, or something on the hub."""

FROM_ELSEWHERE = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of the library timm that do the same."""

DEEPEST = 50
"""Maximum depth of a config."""


def config_problem(config: Mapping[str, Any], trust: Trust) -> str | None:
    """Why a config reaches beyond its folder, or None."""
    for place, part, depth in parts(config):
        if depth > DEEPEST:
            return f"config.json is nested more than {DEEPEST} levels deep"
        for key, value in part.items():
            if (problem := entry_problem(f"{place}{key}", str(key), value, trust)) is not None:
                return problem
        if str(part.get("model_type", "")).startswith("timm") and names_timm_weights(part):
            return f"{place}architecture or model_args in config.json names weights elsewhere"
    return None


def parts(config: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any, int]]:
    """A config and all mappings in it: the path of keys to it, the mapping, its depth."""
    if depth > DEEPEST + 1:
        return
    if isinstance(config, Mapping):
        yield place, config, depth
        for key, value in config.items():
            yield from parts(value, f"{place}{str(key)[:40]}.", depth + 1)
    elif isinstance(config, list):
        for value in config:
            if isinstance(value, (Mapping, list)):
                yield from parts(value, place, depth + 1)


def entry_problem(place: str, key: str, value: Any, trust: Trust) -> str | None:
    """Why an entry of a config reaches beyond the folder, or None."""
    if not value:
        return None
    if key == "auto_map":
        return code_problem(place, value, trust)
    if key in NOT_FOLLOWED:
        # may name a pickled file, or a file outside the fingerprint
        return f"{place} in config.json is not supported; remove it"
    if (valid := KINDS.get(key)) is not None:
        for name in value.values() if isinstance(value, Mapping) else [value]:
            plain = name.removeprefix("paged|") if isinstance(name, str) else name
            if plain is not None and (not isinstance(plain, str) or plain not in valid):
                return (
                    f"{place} in config.json is {str(name)[:80]!r}; kernels are not fetched from the "
                    f"hub, and the entry has no effect here: remove it (valid: {', '.join(sorted(valid))})"
                )
    if key in ("quantization_config", "compression_config"):
        return quantiser_problem(place, value, trust)
    return None


def code_problem(place: str, entry: Any, trust: Trust) -> str | None:
    """Why the Python code that a config names cannot be run, or None."""
    if not trust.remote_code:
        return (
            f"its config.json names Python code of its own ({place}), which is not run; "
            f"{TRUST_REMOTE_CODE} runs it, without {place} transformers uses its own code"
        )
    if not isinstance(entry, dict):
        return f"{place} in config.json is not a mapping of classes to code"
    for names in entry.values():
        for name in names if isinstance(names, list) else [names]:
            if name is not None and not (isinstance(name, str) and CLASS.fullmatch(name)):
                return (
                    f"{place} in config.json names {str(name)[:80]!r}; code must be in the folder "
                    "itself, as in modeling_mine.MyModel"
                )
    return None


def names_timm_weights(part: Mapping[str, Any]) -> bool:
    """Whether a config of timm names weights outside the folder."""
    arguments = part.get("model_args")
    return ":" in str(part.get("architecture", "")) or (
        isinstance(arguments, Mapping) and any(arguments.get(name) for name in FROM_ELSEWHERE)
    )
