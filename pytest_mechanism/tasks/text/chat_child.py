"""Renders a chat template, in a separate process (`child_process`) unless it is harmless.

The template is a stranger's program: a loop without end, or a text of gigabytes, ends with the
process. Imports nothing of this package.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NO_MEMORY = "takes more memory than a template may"


def run(arguments: dict[str, Any], limit: Callable[[], None]) -> dict[str, Any]:
    """``texts`` of the template, one for each list of messages, None where that cannot be rendered,
    and the ``variables`` that it reads; or an ``error``."""
    from jinja2 import meta
    from transformers.utils import chat_template_utils as utils

    limit()
    template = arguments["template"]
    texts: list[str | None] = []
    try:
        compiled = utils._compile_jinja_template(template)  # noqa: SLF001 - what the renderer reads
        variables = sorted(meta.find_undeclared_variables(compiled.environment.parse(template)))
    except MemoryError:
        return {"error": NO_MEMORY}
    except Exception as problem:  # whatever a template raises
        return {"error": str(problem) or type(problem).__name__}
    for messages, add_generation_prompt in arguments["conversations"]:
        try:
            rendered, _ = utils.render_jinja_template(
                conversations=[messages],
                chat_template=template,
                add_generation_prompt=add_generation_prompt,
                **arguments["variables"],
            )
            text = str(rendered[0])
        except MemoryError:
            return {"error": NO_MEMORY}
        except Exception as problem:  # whatever a template raises
            if not texts:
                return {"error": str(problem) or type(problem).__name__}
            texts.append(None)
            continue
        if len(text) > arguments["longest"]:
            return {"error": f"gives {len(text):,} characters; at most {arguments['longest']:,}"}
        texts.append(text)
    return {"texts": texts, "variables": variables}


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))
    from child_main import main  # type: ignore[import-not-found] # beside it

    main(run)
