"""A program's settings: the words of its command, what they may hold, and the hash of a run."""

from typing import Any

import pytest
from pydantic import ValidationError

from ablate.study.program import ProgramConfig, ProgramData, command_words

COMMAND = ["python", "train.py", "--seed", "{seed}", "--out", "{out}", "{options}"]


def config(command: list[str] | str = COMMAND, options: dict[str, Any] | None = None, **program: Any) -> ProgramConfig:
    return ProgramConfig.model_validate({"program": {"command": command, **program}, "options": options or {}})


def words(command: list[str], **options: Any) -> list[str]:
    return command_words(config(command, options), seed=3, out="/o u t", preset="smoke")


def test_options_follow_as_words_of_their_own() -> None:
    given = words(COMMAND, lr=0.1, batch_size=8, use_ema=True, flip=False, name="a b; rm -rf *")
    assert given[:6] == ["python", "train.py", "--seed", "3", "--out", "/o u t"]
    assert given[6:] == ["--lr", "0.1", "--batch_size", "8", "--use_ema", "--name", "a b; rm -rf *"]


def test_an_option_that_a_word_names_is_not_repeated() -> None:
    command = ["t", "seed={seed}", "{out}/x", "model.lr={lr}", "ema={ema}", "{options}", "p={preset}"]
    assert words(command, lr=1e-5, ema=False, depth=2) == [
        *("t", "seed=3", "/o u t/x", "model.lr=1e-05", "ema=false", "--depth", "2", "p=smoke"),
    ]


def test_a_doubled_brace_is_a_brace() -> None:
    assert words(["t", "{seed}{out}", '{{"a": {{}}}}', "{{seed}}"]) == ["t", "3/o u t", '{"a": {}}', "{seed}"]


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        (["t", "{sed}", "{out}"], {}, "unknown placeholder {sed}; did you mean {seed}?"),
        (["t", "{seed}", "{out}", "{lrr}"], {"lr": 1}, "did you mean {lr}?"),
        (["t", "{seed}", "{out}", "--{options}"], {}, "{options} must be a word of its own"),
        (["t", "{seed}", "{out}", "a{b"], {}, "a single { in 'a{b'"),
        (["t", "{out}"], {}, "has no {seed}: every seed would be the same run"),
        (["t", "{seed}"], {}, "has no {out}"),
        (["t", "{seed}", "{out}"], {"lr": 1}, "does not use the option lr; add the word {options}"),
        (["t", "{seed}", "{out}", "{options}"], {"seed": 1}, "give the option seed another name"),
        (["t", "{seed}", "{out}", "{options}"], {"a b": 1}, "'a b' cannot be an option"),
        (["t", "{seed}", "{out}", "{options}"], {"lr": [1]}, "a number, a text, true or false"),
        (["t", "{seed}", "{out}", "{options}"], {"lr": float("nan")}, "finite"),
        ([], {}, "it must name a program"),
        ("python t.py --seed {seed}", {}, 'as in ["python", "t.py", "--seed", "{seed}"]'),
        (["t", "{seed}", "{out}\0"], {}, "NUL"),
    ],
)
def test_what_a_command_may_not_be(command: list[str], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        config(command, options)
    assert said in str(error.value)


@pytest.mark.parametrize("path", ["/abs", "../x", "a/../../x", ""])
def test_images_are_below_out(path: str) -> None:
    with pytest.raises(ValidationError, match="below"):
        config(images=path)


def test_the_hash_is_of_what_changes_results() -> None:
    base = config(options={"lr": 0.1})
    same = config(options={"lr": 0.1}, timeout_s=5.0, data="mnist", workdir="/x", metrics={"acc": "higher"})
    assert base.hash == same.hash
    others = [
        config(options={"lr": 0.2}),
        config(["other", *COMMAND[1:]], {"lr": 0.1}),
        config(options={"lr": 0.1}, environment={"A": 1}),
        config(options={"lr": 0.1}, images="samples"),
    ]
    assert len({base.hash, *(one.hash for one in others)}) == 5
    assert config(environment={"OMP_NUM_THREADS": 1, "B": True}).program.environment == {
        "OMP_NUM_THREADS": "1",
        "B": "true",
    }


def test_runs_of_two_labels_or_references_do_not_compare() -> None:
    programs = [config(data=name).program for name in ("a", "b")]
    digests = {ProgramData.of(programs[0]).digest, ProgramData.of(programs[1]).digest}
    assert len(digests | {ProgramData.of(programs[0], "reference").digest}) == 3
