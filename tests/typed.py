"""What somebody may type: words of the command line, values, study files and settings, right, nearly right and wrong."""

from dataclasses import fields

import yaml
from hypothesis import strategies as st

from mergekit_diff import names
from mergekit_diff.experiments.bench.config import Bench
from mergekit_diff.experiments.study.config import Merging, Primary, Study, Wandb
from mergekit_diff.registry import KINDS, part_class

PARTS = [name for kind in KINDS for name in names(kind)]
SETTINGS = sorted({one.name for kind in KINDS for name in names(kind) for one in fields(part_class(kind, name))})
NESTED = {"merging": Merging, "primary": Primary, "wandb": Wandb}
KEYS = [one.name for one in fields(Study)] + [f"{key}.{one.name}" for key, cls in NESTED.items() for one in fields(cls)]
KEYS += ["strategy.name", *[f"strategy.{name}" for name in SETTINGS]]
BENCH = [one.name for one in fields(Bench)]
WORDS = """psnr kid lpips fid text base auto none offline grid random emoji emoji-8 values value min max name lower higher
float32 cpu sd15 sdxl time flops scaling layer step self_attention key_value block cfg image ddim staleness down mid up . .. /
2026-11-27 1:30 0x1f 1e3 .inf -.inf .nan null ~ yes = << *a &a !!set ${a} %""".split()
WORDS += ["\\", "\ud800", "a\0b", "x" * 300, "x" * 300 + ".yaml"]

text = st.one_of(st.sampled_from(WORDS), st.sampled_from(PARTS), st.text(max_size=12))
numbers = st.one_of(st.integers(-3, 70), st.integers(), st.floats(), st.sampled_from([10**400, -(10**30), 0.5, 1.0, 1e-320]))
scalars = st.one_of(st.none(), st.booleans(), numbers, text)
keys = st.one_of(st.sampled_from(SETTINGS), st.sampled_from(KEYS), text, st.integers(-2, 3), st.booleans(), st.none())
named = st.builds(
    lambda name, rest: {"name": name, **rest}, text, st.dictionaries(st.sampled_from(SETTINGS), scalars, max_size=3)
)
values = st.recursive(
    st.one_of(scalars, named),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
sweeps = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(
        values,
        st.fixed_dictionaries({"values": st.lists(values, max_size=3)}),
        st.fixed_dictionaries({"min": numbers, "max": numbers}),
    ),
    max_size=2,
)


def as_yaml(value):
    """In one line, or the value's repr where YAML has no word for it."""
    try:
        return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    except (yaml.YAMLError, UnicodeError):
        return repr(value)


def _assigned(names):
    right = st.builds(lambda key, value: f"{key}={as_yaml(value)}", st.sampled_from(names), st.one_of(values, sweeps))
    return st.one_of(
        right, st.builds("{}={}".format, st.one_of(keys, text), text), st.builds("{}{}".format, st.sampled_from(names), text)
    )


def _command(first, names, flags):
    words = st.one_of(_assigned(names), st.sampled_from(flags) if flags else text)
    return st.builds(lambda head, rest: [*head, *rest], first, st.lists(words, max_size=4))


studies = st.sampled_from(["quickstart", "cache-period", "quickstrat", "study.yaml", "x/y.yml"])
commands = st.one_of(
    _command(
        st.builds(lambda name: ["run", name], st.one_of(studies, text)), KEYS, ["--fresh", "--wandb-sweep", "--", "-h=", "--fr"]
    ),
    _command(st.builds(lambda prompt: ["generate", prompt], text), KEYS, ["--fresh"]),
    _command(st.just(["bench"]), BENCH, ["--json", "--plot", "--json=x/y", "--plot=a.gif"]),
    _command(st.builds(lambda folder: ["report", folder], text), KEYS, ["--rows-into", "--tables-into"]),
    _command(st.just(["list"]), [*KINDS, "study", "family"], []),
    st.lists(text, max_size=4),
)
pieces = ["- ", "a: ", "[", "]", "{", "}", "&a ", "*a ", "!!int ", "? ", "| ", "\n", "  ", "#", "'", '"', "x"]
files = st.one_of(
    st.dictionaries(st.one_of(st.sampled_from(KEYS), keys), st.one_of(values, sweeps), max_size=5).map(as_yaml),
    values.map(as_yaml),
    st.text(max_size=60),
    st.lists(st.sampled_from(pieces), max_size=20).map("".join),
)
