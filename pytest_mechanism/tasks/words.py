"""Word lists. Common nouns that most tokenizers keep whole; a task filters them again."""

import string

OBJECTS: tuple[str, ...] = tuple(  # one string reads better than 106 literals
    """
    apple bag ball bank beer bell bill bird block board boat bomb bone book boot bottle bowl
    bread brick brush bus button cable cake camera card case chain chair cheese chest clock coat
    coffee computer cream cross crown cup dish disk door dress drink drug egg engine fan file film
    fish flag flower game gift glass gold guitar gun hat helmet ice iron jacket key knife lamp
    leaf letter machine magnet map medicine milk mirror newspaper note paper pen phone picture
    pipe plane plant plate pot radio ring rock rope rose seed shell shirt shoe string suit tea
    ticket tie tool train tree watch wheel wire
    """.split()  # noqa: SIM905
)

LABELS: tuple[str, ...] = tuple(string.ascii_uppercase)

FILLERS: tuple[str, ...] = ("now", "still", "also", "again")
"""Words that change a segment's length and nothing else."""

LETTERS: tuple[str, ...] = tuple(string.ascii_lowercase)

NUMBERS: tuple[str, ...] = tuple(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty
    """.split()  # noqa: SIM905
)
