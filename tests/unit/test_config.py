"""Settings: default, file, environment, command line, from weakest to strongest; nothing misspelt is ignored."""

from __future__ import annotations

import tomllib

import pytest

from bandmeter import config
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Side

FORMAT = """
[[format]]
name = "mine"
split = "tab"
columns = ["at", "user", "sent"]
side = "client"
example = "1\\ta\\t5"
fields = { time_ms = "seconds_ms(at)", identity = "user", bytes_up = "whole(sent)" }
"""


def write(tmp_path, text):
    (tmp_path / "bandmeter.toml").write_text(text)
    return str(tmp_path)


def refused(environment, data=None, options=None):
    with pytest.raises(BandmeterError) as caught:
        config.load(environment, data, options)
    assert caught.value.code == errors.INPUT_INVALID
    return caught.value.sentence


def test_without_anything_the_defaults_hold():
    found = config.load({})
    assert str(found.data) == "bandmeter-data"
    assert found.server == config.Server("127.0.0.1", 8080, 1)
    assert found.ingest == config.Ingest(33_554_432, 10_000)
    assert set(found.origins.values()) == {"default"}


def test_the_data_folder_comes_from_the_option_else_the_environment():
    assert str(config.load({"BANDMETER_DATA": "/env"}).data) == "/env"
    found = config.load({"BANDMETER_DATA": "/env"}, "/option")
    assert str(found.data) == "/option"
    assert found.origins["data"] == "option --data"


def test_each_layer_wins_over_the_weaker_ones(tmp_path):
    data = write(tmp_path, "[server]\nhost = '::1'\nport = 1000\nworkers = 2\n")
    environment = {"BANDMETER_SERVER_PORT": "2000", "BANDMETER_SERVER_WORKERS": "3"}
    found = config.load(environment, data, {"server.workers": 4, "server.port": None})
    assert found.server == config.Server("::1", 2000, 4)
    file = str(tmp_path / "bandmeter.toml")
    assert {key: found.origins[f"server.{key}"] for key in ("host", "port", "workers")} == {
        "host": file,
        "port": "BANDMETER_SERVER_PORT",
        "workers": "option --workers",
    }


def test_another_file_may_be_named(tmp_path):
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 99\n")
    data = write(tmp_path, "[server]\nport = 98\n")
    assert config.load({"BANDMETER_CONFIG": str(other)}, data).server.port == 99
    assert "nowhere.toml: cannot be read" in refused({"BANDMETER_CONFIG": str(tmp_path / "nowhere.toml")}, data)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[sever]", "sever"),
        ("port = 5", "port"),
        ("server = 5", "server"),
        ("[server]\nprot = 5", "server.prot"),
        ("[server]\nport = '5'", "server.port"),
        ("[server]\nport = true", "server.port"),
        ("[server]\nport = 0", "server.port"),
        ("[server]\nport = 65536", "server.port"),
        ("[server]\nhost = 5", "server.host"),
        ("[ingest]\nbatch_bytes = 1.5", "ingest.batch_bytes"),
        ("[source]\nname = 'a'", "source"),
        ("[[source]]\nname = 'a'\nformat = 'squid'", "source[0].path"),
        ("[[source]]\nname = 'a'\nformat = 'squid'\npath = 5", "source[0].path"),
        ("[[source]]\nname = 'a'\nformat = 'squid'\npath = 'x'\nspread = 1", "source[0].spread"),
        (FORMAT + FORMAT.replace("mine", "more").replace("split", "spilt"), "format[1].spilt"),
        (FORMAT + FORMAT, "format[1].name"),
        ("[[source]]\nname = 'a'\nformat = 'squid'\npath = 'x'\n" * 2, "source[1].name"),
        (FORMAT.replace('"tab"', "5"), "format[0].split"),
        (FORMAT.replace('"client"', '"both"'), "format[0].side"),
        (FORMAT.replace('["at", "user", "sent"]', '"at"'), "format[0].columns"),
        (FORMAT.replace('"user", "sent"]', "5]"), "format[0].columns"),
        (FORMAT.replace('identity = "user"', "identity = 5"), "format[0].fields"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_the_file(tmp_path, text, key):
    sentence = refused({}, write(tmp_path, text))
    assert sentence.startswith(f"{tmp_path}/bandmeter.toml: {key}: ")
    assert sentence.endswith(".")


@pytest.mark.parametrize("text", ["[server", "x = " + "[" * 5_000, "\x00"])
def test_what_is_no_toml_is_refused_with_the_file(tmp_path, text):
    assert f"{tmp_path}/bandmeter.toml: is not TOML" in refused({}, write(tmp_path, text))


def test_a_file_over_the_limit_is_refused(tmp_path):
    assert "larger than 1 MiB" in refused({}, write(tmp_path, "#" * (2**20 + 1)))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BANDMETER_SERVER_PROT", "5"),
        ("BANDMETER_SERVER_PORT", "five"),
        ("BANDMETER_SERVER_PORT", "-5"),
        ("BANDMETER_SERVER_PORT", "9" * 5_000),
        ("BANDMETER_SERVER_PORT", "\N{ARABIC-INDIC DIGIT FIVE}"),
        ("BANDMETER_INGEST_BATCH_BYTES", "1"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named_by_its_variable(variable, value):
    assert refused({variable: value}).startswith(f"environment: {variable}: ")


def test_variables_of_no_section_are_nobodys_business():
    """The key in a user's own script may well be called BANDMETER_KEY."""
    assert config.load({"BANDMETER_KEY": "x", "BANDMETER_NOW": "x", "OTHER": "x"}) == config.load({})


def test_an_option_out_of_range_is_refused():
    assert refused({}, None, {"server.port": 0}).startswith("option --port: server.port: ")


def test_a_registered_format_becomes_a_format(tmp_path):
    (found,) = config.load({}, write(tmp_path, FORMAT)).formats
    assert (found.name, found.split, found.side, found.example, found.pattern) == (
        "mine",
        "tab",
        Side.CLIENT,
        "1\ta\t5",
        "",
    )
    (layout,) = found.layouts
    assert layout.columns == ("at", "user", "sent")
    assert layout.fields == {"time_ms": "seconds_ms(at)", "identity": "user", "bytes_up": "whole(sent)"}


def test_what_is_dumped_can_be_read_back_and_says_where_it_came_from(tmp_path):
    source = "[[source]]\nname = 'edge \"1\"'\nformat = 'mine'\npath = 'C:\\logs\\*.log'\n"
    data = write(tmp_path, f"[server]\nport = 99\n{source}{FORMAT}")
    found = config.load({"BANDMETER_INGEST_BATCH_BYTES": "5000"}, data)
    dumped = config.dump(found)
    assert f"port = 99  # {tmp_path}/bandmeter.toml" in dumped
    assert "batch_bytes = 5000  # BANDMETER_INGEST_BATCH_BYTES" in dumped
    assert "workers = 1  # default" in dumped
    assert tomllib.loads(dumped)["server"] == {"host": "127.0.0.1", "port": 99, "workers": 1, "kept_bytes": 67108864}
    again = config.load({}, write(tmp_path, dumped))
    kept = ("server", "ingest", "dialects", "sources", "formats")
    assert [getattr(again, name) for name in kept] == [getattr(found, name) for name in kept]
