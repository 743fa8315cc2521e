"""Instructions that are unrelated to the circuits under test, with short replies in one style.

What is the capital of Kenya?            -> The capital of Kenya is Nairobi.
Add seven and five.                      -> Seven plus five is twelve.
Put in alphabetical order: pear, apple   -> apple, pear

No row names two people, pairs a key with a value, or mentions a year, as the tasks under test do.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from recipes.real.chat import Exchange


def words_of(text: str) -> list[str]:
    return text.split()


def table(pairs: str) -> dict[str, str]:
    """``a:b c:d`` as a mapping."""
    return {first: second for first, _, second in (pair.partition(":") for pair in pairs.split())}


CAPITALS = table(
    "France:Paris Spain:Madrid Italy:Rome Germany:Berlin Poland:Warsaw Austria:Vienna Greece:Athens "
    "Portugal:Lisbon Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Ireland:Dublin "
    "Japan:Tokyo China:Beijing India:Delhi Thailand:Bangkok Vietnam:Hanoi Egypt:Cairo Kenya:Nairobi "
    "Morocco:Rabat Ghana:Accra Peru:Lima Chile:Santiago Cuba:Havana Canada:Ottawa Hungary:Budapest "
    "Turkey:Ankara Iran:Tehran Iraq:Baghdad"
)
NUMBERS = words_of(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
KINDS = {
    kind: words_of(words)
    for kind, words in {
        "fruits": "apple pear plum cherry peach lemon orange banana grape melon",
        "animals": "horse cow sheep goat dog cat rabbit fox wolf bear",
        "colours": "red blue green yellow black white brown purple pink grey",
        "tools": "hammer saw drill wrench chisel pliers rake shovel axe file",
        "vegetables": "carrot onion leek potato spinach cabbage celery radish bean pea",
    }.items()
}
OPPOSITES = table(
    "hot:cold big:small tall:short fast:slow light:dark wet:dry hard:soft rich:poor old:young "
    "full:empty open:closed early:late strong:weak clean:dirty loud:quiet wide:narrow deep:shallow "
    "happy:sad cheap:expensive easy:difficult"
)
SENTENCES = (
    "the river is deep", "my garden has a wall", "the train leaves at noon", "rain fell all night",
    "the soup needs salt", "our house is on a hill", "the door was painted green", "snow covers the field",
    "the baker opens at six", "this road is long", "the lamp is broken", "a bird sings outside",
)  # fmt: skip
DAYS = words_of("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def capital(rng: random.Random) -> Exchange:
    country, city = rng.choice([*CAPITALS.items()])
    question = rng.choice(
        ("What is the capital of {}?", "Name the capital of {}.", "{}: its capital?")
    )
    return Exchange(question.format(country), f"The capital of {country} is {city}.")


def addition(rng: random.Random) -> Exchange:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    question = rng.choice(("What is {} plus {}?", "Add {} and {}.", "How much is {} plus {}?"))
    reply = f"{NUMBERS[a]} plus {NUMBERS[b]} is {NUMBERS[a + b]}."
    return Exchange(question.format(NUMBERS[a], NUMBERS[b]), reply.capitalize())


def members(rng: random.Random) -> Exchange:
    kind = rng.choice([*KINDS])
    count = rng.choice((2, 3, 4))
    question = rng.choice(("List {} {}.", "Give me {} {}.", "Name {} {}."))
    return Exchange(question.format(NUMBERS[count], kind), ", ".join(KINDS[kind][:count]))


def sorting(rng: random.Random) -> Exchange:
    words = rng.sample(KINDS[rng.choice([*KINDS])], 3)
    question = rng.choice(("Put in alphabetical order: {}", "Sort by alphabet: {}"))
    return Exchange(question.format(", ".join(words)), ", ".join(sorted(words)))


def opposite(rng: random.Random) -> Exchange:
    pair = rng.choice([*OPPOSITES.items()])
    word, other = pair if rng.random() < 0.5 else pair[::-1]
    question = rng.choice(("What is the opposite of {}?", "Name the opposite of {}."))
    return Exchange(question.format(word), f"The opposite of {word} is {other}.")


def capitals_of_letters(rng: random.Random) -> Exchange:
    sentence = rng.choice(SENTENCES)
    question = rng.choice(("Write in capital letters: {}", "Repeat this in upper case: {}"))
    return Exchange(question.format(sentence), sentence.upper())


def day(rng: random.Random) -> Exchange:
    at = rng.randrange(len(DAYS))
    question = rng.choice(("Which day comes after {}?", "What day follows {}?"))
    return Exchange(question.format(DAYS[at]), f"{DAYS[(at + 1) % 7]} comes after {DAYS[at]}.")


KINDS_OF_ROWS: tuple[Callable[[random.Random], Exchange], ...] = (
    capital, addition, members, sorting, opposite, capitals_of_letters, day,
)  # fmt: skip


def rows(count: int, seed: int) -> list[Exchange]:
    """``count`` different instructions; the kinds take turns."""
    rng = random.Random(f"benign {seed}")
    drawn: dict[str, Exchange] = {}
    kind = 0
    while len(drawn) < count:
        exchange = KINDS_OF_ROWS[kind % len(KINDS_OF_ROWS)](rng)
        drawn.setdefault(exchange.message, exchange)
        kind += 1
    return [*drawn.values()]


def train_and_test(train: int, test: int, seed: int) -> tuple[list[Exchange], list[Exchange]]:
    """Rows to train on and rows to test on, which share no message."""
    drawn = rows(train + test, seed)
    random.Random(f"split {seed}").shuffle(drawn)
    return drawn[:train], drawn[train:]
