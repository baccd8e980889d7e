"""What the environment may say, in the words that people use, and what happens where it says nothing at all."""

import os
import shutil
import subprocess
import sys

import pytest

from vit_edu import check, cli, data, settings

ON = ("1", "on", "ON", "yes", "True", " true ", '"1"', "Y")
OFF = ("0", "off", "Off", "no", "NO", "false", "False", " off", "'0'", "n")


@pytest.mark.parametrize("name", ["VIT_EDU_FAST", "VIT_EDU_NETWORK"])
def test_switches_understand_words(monkeypatch, name):
    asked = {"VIT_EDU_FAST": settings.fast, "VIT_EDU_NETWORK": settings.network}[name]
    monkeypatch.delenv(name, raising=False)
    assert asked() == (name == "VIT_EDU_NETWORK")
    for words, means in ((ON, True), (OFF, False)):
        for word in words:
            monkeypatch.setenv(name, word)
            assert asked() is means, word
    monkeypatch.setenv(name, "flase")
    with pytest.raises(settings.SettingError, match=f"{name} is 'flase'; expected 1 or 0, on or off"):
        asked()


def test_a_misspelt_switch_is_told_by_the_command_and_sends_nothing(monkeypatch, capsys):
    monkeypatch.setenv("VIT_EDU_FAST", "flase")
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err.startswith("vit-edu: VIT_EDU_FAST is 'flase'")
    monkeypatch.setenv("VIT_EDU_NETWORK", "offf")
    with pytest.raises(data.DataError, match="VIT_EDU_NETWORK is 'offf'"):
        data.require_network("http://127.0.0.1:9/")


def test_progress_may_be_switched_off_and_on_in_words(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for word in OFF:
        monkeypatch.setenv("VIT_EDU_PROGRESS", word)
        assert settings.progress_file() is None, word
    for word in ON:
        monkeypatch.setenv("VIT_EDU_PROGRESS", word)
        assert settings.progress_file().name == "progress.json", word
    monkeypatch.setenv("VIT_EDU_PROGRESS", str(tmp_path / "mine.json"))
    assert settings.progress_file() == tmp_path / "mine.json"


@pytest.mark.parametrize("word", ["ten", "0", "-1", "nan", "inf"])
def test_patience_is_a_time(monkeypatch, word):
    assert settings.patience() == 10
    monkeypatch.setenv("VIT_EDU_PATIENCE", "0.5")
    assert settings.patience() == 0.5
    monkeypatch.setenv("VIT_EDU_PATIENCE", word)
    with pytest.raises(
        settings.SettingError, match=f"VIT_EDU_PATIENCE is '{word}'; expected a number of minutes"
    ):
        settings.patience()


@pytest.mark.parametrize("word", ["CIFAR10", "cifar-10", "Shapes"])
def test_data_are_named_in_any_case(monkeypatch, word):
    monkeypatch.setenv("VIT_EDU_DATA", word)
    assert data.choose()[0] == ("shapes" if word == "Shapes" else "download")


# ---------------------------------------------------------------- nobody at home

NAMES = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME")


def as_nobody(code):
    """What Python prints for a user whom the machine does not know, with neither HOME nor a name. Needs root."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv")
    env = {k: v for k, v in os.environ.items() if k not in NAMES and not k.startswith(("VIT_EDU_", "XDG_"))}
    env["PYTHONIOENCODING"] = "utf-8"  # for the marks of `progress`, whatever the locale
    nobody = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    done = subprocess.run(
        [*nobody, sys.executable, "-B", "-c", code], env=env, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_home_there_are_shapes_and_no_progress():
    said = as_nobody("from vit_edu import check, data; print(data.load()); print(check.progress())")
    assert "generated shapes" in said
    assert "there is no home folder: HOME is not set" in said
    assert "Set VIT_EDU_CACHE to a folder" in said
    assert "Progress is not kept: there is no home folder" in said


def test_without_a_home_the_doctor_gives_remedies_that_help():
    said = as_nobody("from vit_edu import cli; cli.main(['doctor'])")
    assert "ok     Data: generated shapes" in said
    assert "Set HOME" in said or "Set VIT_EDU_CACHE to a folder" in said or "All is well" in said
    assert "make lab" not in said


@pytest.mark.parametrize("command", ["lab", "course", "derive"])
def test_without_a_home_jupyter_is_not_what_is_told(command):
    pytest.importorskip("nbclient")
    pytest.importorskip("jupyterlab")
    said = as_nobody(
        f"from vit_edu import cli; import sys; sys.stderr = sys.stdout; print(cli.main([{command!r}, *{['77'] * (command == 'course')}]))"
    )
    assert (
        said
        == "vit-edu: there is no home folder, which Jupyter needs. Set HOME to a folder that you can write to.\n1\n"
    )


def test_torch_compiles_for_a_user_without_a_name():
    said = as_nobody("import vit_edu, torch; torch.compile(torch.nn.Linear(2, 2)); print('compiled')")
    assert said == "compiled\n"


@pytest.mark.parametrize("name", ["VIT_EDU_CACHE", "VIT_EDU_PROGRESS", "VIT_EDU_DATA"])
def test_the_home_of_somebody_unknown(monkeypatch, name):
    monkeypatch.setenv(name, "~nobody-of-this-name/x")
    if name == "VIT_EDU_DATA":
        with pytest.raises(data.DataError, match=r"VIT_EDU_DATA names ~nobody.*no home folder of that user"):
            data.load()
    elif name == "VIT_EDU_CACHE":
        with pytest.raises(
            settings.NoHome, match=r"VIT_EDU_CACHE is ~nobody.* Set VIT_EDU_CACHE to a folder"
        ):
            settings.cache_dir()
    else:
        assert "VIT_EDU_PROGRESS is ~nobody" in check.progress().remark
