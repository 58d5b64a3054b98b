"""`tickfold models`: what a daemon's models are and how they do, orders to them, and the same models judged on recorded ticks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.options import DONE, WRONG_INPUT, Verbs, add_selection, add_verb, positive, read_config

if TYPE_CHECKING:
    from engine.cli.client import Client
    from engine.config import Config

WHICH = "MODEL[@VERSION]"
KEY = "EXCHANGE:SYMBOL"


def add(verbs: Verbs) -> None:
    """Add the verb, and the verbs below it."""
    summary = (
        "what the models of a daemon say, and whether it holds; promote one, roll back, judge models on recorded ticks"
    )
    models = add_verb(verbs, "models", lambda _: _print_help(models), summary)
    below = models.add_subparsers(dest="models_verb", metavar="VERB", title="verbs")
    _add_looks(below)
    _add_orders(below)
    _add_evaluate(below)
    for parser in below.choices.values():
        # What all verbs have may stand before this verb or behind it: one that is left out leaves the other as it is.
        for action in parser._actions:  # argparse has no other way to change a default to none at all
            if action.dest in ("config", "verbose", "json"):
                action.default = argparse.SUPPRESS


def _print_help(parser: argparse.ArgumentParser) -> int:
    parser.print_help(sys.stderr)
    return WRONG_INPUT


def _add_looks(below: Verbs) -> None:
    shown = add_verb(below, "list", list_models, "models of a running daemon, with their scores beside their baselines")
    _add_daemon(shown)
    shown.add_argument("--model", metavar="NAME", default="", help="only this one")
    shown.add_argument("--symbol", dest="key", metavar=KEY, default="", help="only of this key")
    one = add_verb(below, "show", show_model, "all that is known of one model: versions, scores, baselines, evidence")
    one.add_argument("model", metavar="MODEL", help="its name")
    one.add_argument("key", metavar=KEY, nargs="?", default="", help="only of this key")
    _add_daemon(one)


def _add_orders(below: Verbs) -> None:
    for verb, summary, model in (
        ("promote", "make a version the champion: a journaled input, like all commands", "MODEL@VERSION"),
        ("rollback", "make the champion before this one the champion again", "MODEL"),
        ("pin", "let the champion stay: no promotion by evidence", WHICH),
        ("unpin", "let evidence decide again", "MODEL"),
    ):
        order = add_verb(below, verb, give_order(verb), summary)
        order.add_argument("model", metavar=model, help="as `tickfold models list` names it")
        order.add_argument("key", metavar=KEY, nargs="?", default="", help="of this key alone (default: of all keys)")
        _add_daemon(order)


def _add_daemon(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", metavar="URL", help="where the daemon listens (default: server.host and server.port)")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="its token (default, for commands: that of the configured data folder)",
    )


def _add_evaluate(below: Verbs) -> None:
    judge = add_verb(
        below,
        "evaluate",
        evaluate_models,
        "progressive validation: each prediction verified at its horizon, then learned from",
    )
    judge.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="Parquet ticks or quotes, a capture, a daemon's data folder (none: the built-in recording); or one data set: a .csv or .arff "
        "file, or a data set of River's, such as river:Phishing",
    )
    judge.add_argument(
        "--model", metavar="NAME", help="built in (direction, log_return) or defined in the configuration"
    )
    judge.add_argument("--all", action="store_true", help="all that are built in or defined")
    judge.add_argument("--horizon", metavar="H", help="60s, 500ms (time), 100t (trades), 10b (rows of its views)")
    judge.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the model, such as band=2.0 or algorithm.lr=0.01",
    )
    judge.add_argument("--pooled", action="store_true", help="and one verdict on all keys of a model together")
    add_selection(judge)
    judge.add_argument(
        "--algorithm",
        metavar="TOML",
        help="""of a data set: JSON or TOML, such as '{river="tree.HoeffdingTreeClassifier"}'""",
    )
    judge.add_argument(
        "--delay", type=_count, default=None, metavar="N", help="of a data set: a label comes N rows later (default: 0)"
    )
    judge.add_argument("--target", metavar="COLUMN", help="of a CSV or ARFF file (default: its last column)")
    judge.add_argument("--rows", type=positive, metavar="N", help="of a data set: at most N rows")


def _count(text: str) -> int:
    """Read a whole number from 0 on."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 on")
    return int(text)


# -- a running daemon


def list_models(options: argparse.Namespace) -> int:
    """List the models of a daemon."""
    from engine.cli.models_view import overview

    found = _standings(options)
    if not found and (options.model or options.key):
        raise _unknown(options)
    _print(options, found, lambda width: overview(found, width))
    return DONE


def show_model(options: argparse.Namespace) -> int:
    """Show one model of a daemon, by key."""
    from engine.cli.models_view import portrait

    found = _standings(options)
    if not found:
        raise _unknown(options)
    _print(options, found, lambda width: portrait(found, width))
    return DONE


def _unknown(options: argparse.Namespace) -> Exception:
    from engine.errors import ConfigError

    known = sorted({one["model"] for one in _standings(options, everything=True)})
    name = f"no model {options.model!r}" if options.model else "no model"
    of_key = f" of {options.key}" if options.key else ""
    return ConfigError(f"{name}{of_key}; the daemon has {', '.join(known) or 'none'}")


def give_order(verb: str) -> Callable[[argparse.Namespace], int]:
    """Return what gives an order to the models of a daemon."""

    def give(options: argparse.Namespace) -> int:
        from engine.errors import ConfigError

        if verb == "promote" and not all(options.model.partition("@")):
            raise ConfigError(f"promote {options.model!r}: expected MODEL@VERSION, such as direction@2")
        key = _key_of(options.key)
        model, _, version = options.model.partition("@")
        with _client(options, writes=True) as client:
            # Of all keys: what is said of one may be said of all of them.
            before = client.models(model)
            done = client.command(verb, f"{options.model} {options.key}".strip())
            after = client.models(model)
        effects = effects_of(verb, version, before, after, key)
        said = {"sequence": done.sequence, "verb": done.verb, "target": done.target, "effects": effects}
        print(json.dumps(said) if options.json else _told(said))
        return DONE

    return give


def effects_of(
    verb: str, version: str, before: list[dict[str, Any]], after: list[dict[str, Any]], key: tuple[str, str]
) -> list[dict[str, Any]]:
    """Return what became of each key that a command meant or changed, by how its model stood before and after it.

    `promoted` is whether the champion is another, `effect` says in words what came of it. key: ("", "") means all.
    """
    was = {(one["exchange"], one["symbol"]): one for one in before}
    found = []
    for one in after:
        place = one["exchange"], one["symbol"]
        old = was.get(place)
        if old is None:
            continue  # its first row came after the command
        promoted = one["champion"] != old["champion"]
        pinned = one["pinned"] != old["pinned"]
        if key not in (("", ""), place) and not promoted and not pinned:
            continue
        texts = [f"{old['champion']} -> {one['champion']}"] if promoted else []
        if verb in ("pin", "unpin"):
            texts.append(("pinned" if one["pinned"] else "not pinned") + ("" if pinned else " already"))
        elif not promoted:
            texts.append("nothing to roll back" if verb == "rollback" else f"{version} is the champion already")
        effect = {"exchange": place[0], "symbol": place[1], "promoted": promoted, "effect": ", ".join(texts)}
        found.append(effect)
    return found


def _told(said: dict[str, Any]) -> str:
    """A command and what came of it in words: how many promotions, and which keys had the same effect."""
    line = f"{said['verb']} {said['target']}: folded as input {said['sequence']:,}"
    count = sum(one["promoted"] for one in said["effects"])
    if count or said["verb"] in ("promote", "rollback"):
        line += f"; {count or 'no'} promotion{'' if count == 1 else 's'} came of it"
    keys: dict[str, list[str]] = {}
    for one in said["effects"]:
        keys.setdefault(one["effect"], []).append(f"{one['exchange']} {one['symbol']}")
    return "\n".join([line, *(f"  {effect}: {', '.join(places)}" for effect, places in keys.items())])


def _standings(options: argparse.Namespace, everything: bool = False) -> list[dict[str, Any]]:
    exchange, symbol = _key_of("" if everything else options.key)
    with _client(options) as client:
        return client.models("" if everything else options.model, exchange, symbol)


def _key_of(text: str) -> tuple[str, str]:
    from engine.errors import ConfigError

    exchange, separator, symbol = text.partition(":")
    if text and not (separator and exchange and symbol):
        raise ConfigError(f"{text!r}: expected {KEY}, such as binance:BTC/USDT")
    return exchange, symbol


@contextmanager
def _client(options: argparse.Namespace, *, writes: bool = False) -> Iterator[Client]:
    """Give a client of the daemon that is meant, with its token where it is needed."""
    from engine.cli.client import Client, read_token

    config = read_config(options)
    url, token_file = options.url, options.token_file
    if url is None:
        host = f"[{config.server.host}]" if ":" in config.server.host else config.server.host
        url = f"http://{host}:{config.server.port}"
    if token_file is None and writes:
        from engine.serving.security import token_path

        token_file = token_path(config)
    client = Client(url, token=read_token(token_file), timeout_s=30.0)
    try:
        yield client
    finally:
        client.close()


def _print(options: argparse.Namespace, found: Any, draw: Callable[[int], Any]) -> None:
    """Print what was found, as JSON or as `draw` draws it for so many columns."""
    if options.json:
        print(json.dumps(found, allow_nan=False))
    else:
        from rich.console import Console

        from engine.cli.fitting import UNLIMITED

        console = Console(
            width=None if sys.stdout.isatty() else UNLIMITED
        )  # nothing is cut for whoever reads it by grep
        console.print(draw(console.width))


# -- recorded ticks and data sets


def evaluate_models(options: argparse.Namespace) -> int:
    """Judge models on recorded ticks, or a learner on a data set."""
    from engine.cli.models_view import verdicts
    from engine.errors import ConfigError
    from replay.datasets import is_data_set

    config = read_config(options)
    sets = [source for source in options.sources if is_data_set(source)]
    if sets and len(options.sources) > 1:
        raise ConfigError(f"{sets[0]}: expected a data set by itself, found {len(options.sources)} sources")
    found = _on_data_set(options, config, sets[0]) if sets else _on_ticks(options, config)
    _print(options, found, lambda width: verdicts(found, width))
    return DONE


def _on_ticks(options: argparse.Namespace, config: Config) -> list[dict[str, Any]]:
    from engine.cli.options import open_sources, selection_of
    from engine.errors import ConfigError
    from engine.log import Reporter, configure
    from replay.evaluate import evaluate, models_to_judge
    from replay.sources import total_rows
    from replay.terminal import progress_bar

    for name in ("algorithm", "delay", "target", "rows"):
        if getattr(options, name) is not None:
            hint = "; --set algorithm.NAME=VALUE changes a model's" if name == "algorithm" else ""
            raise ConfigError(f"--{name}: is for a data set (.csv, .arff, river:NAME){hint}")
    if bool(options.model) == options.all:
        raise ConfigError("expected --model NAME or --all")
    models = models_to_judge(config, options.model, horizon=options.horizon, changes=options.set)
    sources = open_sources([Path(source) for source in options.sources])
    selection = selection_of(options)
    reporter = Reporter(configure(options.verbose), options.verbose)
    is_watched = sys.stderr.isatty()  # to count the rows of a capture takes a while
    with progress_bar("rows", total_rows(sources) if is_watched else None) as progress:
        return evaluate(config, sources, selection, models, report=reporter, progress=progress, pooled=options.pooled)


def _on_data_set(options: argparse.Namespace, config: Config, source: str) -> list[dict[str, Any]]:
    from engine.errors import ConfigError
    from replay.datasets import open_data_set
    from replay.evaluate import algorithm_of, evaluate_data_set, models_to_judge
    from replay.terminal import progress_bar

    for name in ("horizon", "start", "stop", "symbols", "all"):
        if getattr(options, name):
            raise ConfigError(f"--{({'start': 'from', 'stop': 'to'}).get(name, name)}: is for ticks; {source} has none")
    if (options.algorithm is None) == (options.model is None):
        raise ConfigError(f"{source}: expected --algorithm, or --model NAME for the algorithm of a model")
    if options.algorithm is not None:
        name, algorithm = "", algorithm_of(options.algorithm, options.set)
    else:
        (model,) = models_to_judge(config, options.model, changes=options.set)
        name, algorithm = model.name, model.config.algorithm
    data = open_data_set(source, options.target, options.rows)
    with progress_bar("rows", data.count) as progress:
        return [evaluate_data_set(data, algorithm, name=name, delay=options.delay or 0, progress=progress)]
