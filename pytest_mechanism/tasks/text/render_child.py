"""Renders a chat template in a process of its own, which may not run or grow for long.

Started by `tasks.chat` with a JSON object on standard input; writes one on standard output. The
template is a stranger's program: loops without end, or a text of gigabytes, end with this process.
Nothing of this package is imported.
"""

import json
import sys
from typing import Any

MARK = "\n#rendered#"
"""What stands before the answer: libraries may write to standard output as well."""


def limit(seconds: int, size: int) -> None:
    """Bounds of this process, where the system knows any (Windows does not: whoever waits has a
    timeout of their own)."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    for what, most in ((resource.RLIMIT_CPU, spent + seconds), (resource.RLIMIT_AS, size)):
        hard = resource.getrlimit(what)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (soft, hard))


def rendered(given: dict[str, Any], limited: bool) -> dict[str, Any]:
    """Texts of a template, and the names that it reads; or what went wrong."""
    from transformers.utils import chat_template_utils as utils

    if limited:
        limit(given["seconds"], given["bytes"])
    template = given["template"]
    try:
        from jinja2 import meta

        compiled = utils._compile_jinja_template(template)  # noqa: SLF001 - what the renderer reads
        known = sorted(meta.find_undeclared_variables(compiled.environment.parse(template)))
    except MemoryError:
        return {"error": "takes more memory than a template may"}
    except Exception as problem:  # whatever a template raises
        return {"error": str(problem) or type(problem).__name__}
    texts: list[str | None] = []
    for messages, asked in given["turns"]:
        try:
            found, _ = utils.render_jinja_template(
                conversations=[messages],
                chat_template=template,
                add_generation_prompt=asked,
                **given["more"],
            )
            text = str(found[0])
            if len(text) > given["longest"]:
                return {"error": f"gives {len(text):,} characters; at most {given['longest']:,}"}
            texts.append(text)
        except MemoryError:
            return {"error": "takes more memory than a template may"}
        except Exception as problem:  # whatever a template raises
            if not texts:
                return {"error": str(problem) or type(problem).__name__}
            texts.append(None)
    return {"texts": texts, "known": known}


if __name__ == "__main__":
    answer = rendered(json.loads(sys.stdin.read()), limited=True)
    sys.stdout.write(MARK + json.dumps(answer))
