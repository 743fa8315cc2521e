"""What in a config would reach beyond the folder: a kernel of the hub, an imported library, another
file. Each is refused like code of its own (`checkpoints.trust`), wherever in the config it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_mechanism.checkpoints.trust import CLASS, TRUST_REMOTE_CODE, Trust

ATTENTION = {"eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"}
EXPERTS = {"eager", "batched_mm", "grouped_mm"}
"""Kinds of attention and of experts that are part of torch or an installed library. Any other name is
that of a kernel, which transformers would fetch from the hub and run."""

KINDS = {
    "attn_implementation": ATTENTION,
    "_attn_implementation": ATTENTION,
    "_attn_implementation_internal": ATTENTION,
    "experts_implementation": EXPERTS,
    "_experts_implementation": EXPERTS,
    "_experts_implementation_internal": EXPERTS,
}

NOT_FOLLOWED = ("transformers_weights", "configuration_files", "use_pretrained_backbone")
"""Keys that name other files than those that are checked and hashed, or something on the hub."""

FROM_ELSEWHERE = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of the library timm that do."""

QUANTISERS = {"bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"}
"""What weights may be quantised by. Others import a library or fetch a kernel that the file names."""

DEEPEST = 50
"""Levels of a config that are looked at; a deeper one is refused."""


def wrong_reach(config: Mapping[str, Any], trust: Trust) -> str | None:
    """What is wrong with a config that reaches beyond its folder, or None."""
    for place, part, depth in parts(config):
        if depth > DEEPEST:
            return f"config.json is nested more than {DEEPEST} levels deep"
        for key, value in part.items():
            if (wrong := wrong_entry(f"{place}{key}", str(key), value, trust)) is not None:
                return wrong
        if str(part.get("model_type", "")).startswith("timm") and wrong_timm(part):
            return f"{place}architecture or model_args in config.json names weights elsewhere"
    return None


def parts(config: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any, int]]:
    """A config and every mapping in it, with where it stands."""
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


def wrong_entry(place: str, key: str, value: Any, trust: Trust) -> str | None:
    """What is wrong with one key of a config, or None."""
    if not value:
        return None
    if key == "auto_map":
        return wrong_code(place, value, trust)
    if key in NOT_FOLLOWED:
        # may name a pickled file, or one that no fingerprint knows
        return f"{place} in config.json is not followed; take it out"
    if (valid := KINDS.get(key)) is not None:
        named = list(value.values()) if isinstance(value, Mapping) else [value]
        for one in named:
            plain = one.removeprefix("paged|") if isinstance(one, str) else one
            if plain is not None and (not isinstance(plain, str) or plain not in valid):
                return (
                    f"{place} in config.json is {str(one)[:80]!r}; kernels are not fetched from the "
                    f"hub, and this has no effect here: take it out (valid: {', '.join(sorted(valid))})"
                )
    if key in ("quantization_config", "compression_config") and not trust.remote_code:
        kind = value.get("quant_method") if isinstance(value, Mapping) else value
        bits = isinstance(value, Mapping) and any(value.get(f"load_in_{n}bit") for n in (4, 8))
        if not (kind in QUANTISERS if isinstance(kind, str) else kind is None and bits):
            return (
                f"{place} in config.json asks for {str(kind)[:40]!r}, for which transformers imports or "
                f"fetches further code; save the weights unquantised, or by bitsandbytes "
                f"({TRUST_REMOTE_CODE} allows it)"
            )
    return None


def wrong_code(place: str, named: Any, trust: Trust) -> str | None:
    """What is wrong with a config that names Python code, or None."""
    if not trust.remote_code:
        return (
            f"its config.json names Python code of its own ({place}), which is not run; "
            f"{TRUST_REMOTE_CODE} runs it, and without {place} transformers' own code is used"
        )
    if not isinstance(named, dict):
        return f"{place} in config.json is no mapping of classes to code"
    for each in named.values():
        for one in each if isinstance(each, list) else [each]:
            if one is not None and not (isinstance(one, str) and CLASS.fullmatch(one)):
                return (
                    f"{place} in config.json names {str(one)[:80]!r}; code is taken from the folder "
                    "itself, as in modeling_mine.MyModel"
                )
    return None


def wrong_timm(part: Mapping[str, Any]) -> bool:
    given = part.get("model_args")
    return ":" in str(part.get("architecture", "")) or (
        isinstance(given, Mapping) and any(given.get(name) for name in FROM_ELSEWHERE)
    )
