"""Built-in word lists. Most tokenizers keep these words whole; a task drops those that one splits."""

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
"""Words that only change the length of a segment."""

LETTERS: tuple[str, ...] = tuple(string.ascii_lowercase)

NUMBERS: tuple[str, ...] = tuple(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty
    """.split()  # noqa: SIM905
)

NAMES: tuple[str, ...] = tuple(
    """
    Aaron Adam Alan Alex Alice Amanda Amy Andrew Andy Angela Anna Anthony Arthur Ashley Ben Blake
    Brandon Brian Carl Charles Charlie Chris Christian Christina Christopher Clark Cole Connor
    Crystal Dan Daniel Danielle David Dean Diana Dylan Edward Elizabeth Emily Emma Eric Erica
    Ethan Frank Fred George Georgia Grace Graham Grant Greg Harry Henry Ian Jack Jacob Jake James
    Jamie Jane Jason Jay Jennifer Jeremy Jesse Jessica Jim Joe John Jonathan Jordan Joseph Joshua
    Julia Justin Kate Katie Keith Kelly Kevin Kim Kyle Laura Lauren Lee Leon Lewis Linda Lisa
    Louis Lucas Luke Marcus Maria Mark Martin Mary Matthew Max Melissa Michael Michelle Morgan
    Nathan Neil Nick Nicole Oliver Paul Peter Philip Rachel Rebecca Richard Robert Rose Roy Ruby
    Russell Ruth Ryan Sam Samantha Sarah Scott Sean Simon Stephanie Stephen Steve Steven Susan
    Taylor Thomas Tim Todd Tom Tony Tyler Victoria Vincent Warren Will William Zach
    """.split()  # noqa: SIM905
)

PLACES: tuple[str, ...] = tuple(
    "store garden restaurant school hospital office house station".split()  # noqa: SIM905
)

GIFTS: tuple[str, ...] = tuple(
    "ring kiss bone basketball computer necklace drink snack".split()  # noqa: SIM905
)
"""Names, places and gifts: most of Wang et al. 2022, appendix E."""

EVENTS: tuple[str, ...] = tuple(
    """
    accord affair agreement appraisal assessment attack campaign captivity case challenge chaos
    clash collaboration coma competition confrontation conspiracy construction consultation
    contact contract convention cooperation custody deal decline decrease development
    disagreement disorder dispute domination dynasty effect effort employment endeavor engagement
    epidemic evaluation exchange existence expansion expedition fall fame friendship growth
    hardship hostility illness impact imprisonment improvement increase invasion investigation
    journey kingdom marriage modernization negotiation obstruction operation order outbreak
    outcome overhaul pilgrimage plague plan practice process program progress project pursuit
    quest reign relationship retaliation riot rise rivalry romance rule shift siege slump stature
    stint study test testing therapy tour tradition treaty trial trip unemployment voyage war
    warfare work
    """.split()  # noqa: SIM905
)
"""Events that may last for years: most of Hanna et al. 2023, appendix."""
