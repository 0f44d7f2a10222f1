"""The pure parts of the live engine's tool; the engine itself is run by hand (docs/live-engine.md)."""

import asyncio
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
from itertools import islice

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from hack.vllm_cpu import advice, install, leftovers, model, pages, server, table
from hack.vllm_cpu.__main__ import main
from hack.vllm_cpu.advice import Analysis, Effect, Proposal
from hack.vllm_cpu.cache import MARK, Cache, default_folder
from hack.vllm_cpu.cases import CASES, COMPARED
from hack.vllm_cpu.drive import Answer, Course, Phase, drive
from hack.vllm_cpu.errors import AdviceError, CacheError, InstallError, LoadError
from hack.vllm_cpu.figures import Figures, figures_of, p95_of
from hack.vllm_cpu.load import Load, requests_of
from hack.vllm_cpu.pages import Page
from hack.vllm_cpu.play import Comparison, Seen
from hack.vllm_cpu.server import Settings
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.workload import ContainerFacts
from optiinfra.engines import settings as engine_settings

MEASURED = Figures(
    running=8.0,
    running_max=8.0,
    waiting=16.0,
    kv_usage=0.25,
    kv_usage_max=0.5,
    preemptions=0.0,
    preemption_rate=0.0,
    kv_cache_capacity=2080.0,
    generation_rate=200.0,
    queue_time_p95=4.0,
    inter_token_latency_p95=0.05,
    client_completed=100,
    client_rate=190.0,
    client_first_token_mean=2.0,
    client_first_token_p95=4.0,
    client_latency_mean=6.0,
    client_latency_p95=9.0,
    engine_cores=1.5,
)


@pytest.fixture
def cache(tmp_path):
    found = Cache(tmp_path / "live")
    found.claim()
    return found


def analysis(*proposals, verdict="Batch"):
    return Analysis(verdict=verdict, verdicts=((verdict, 90), ("Unknown", 10)), confidence=0.9, proposals=proposals)


def proposal(setting, proposed="16"):
    return Proposal(setting=setting, current="8", proposed=proposed, reason="R", message="M")


# the folder


def test_folder_follows_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "optiinfra" / "vllm-cpu"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert default_folder() == tmp_path / "me" / ".cache" / "optiinfra" / "vllm-cpu"


def test_clean_removes_the_claimed_folder_only(cache, tmp_path):
    (cache.folder / "venv").mkdir()
    (tmp_path / "neighbour").write_text("stays")
    assert cache.remove()
    assert not cache.folder.exists()
    assert (tmp_path / "neighbour").read_text() == "stays"
    assert not cache.remove()


def test_clean_refuses_a_folder_without_the_mark(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CacheError, match="not of this tool"):
        Cache(tmp_path).remove()
    assert (tmp_path / "thesis.tex").exists()


def test_clean_refuses_a_link_to_a_claimed_folder(cache, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(cache.folder)
    with pytest.raises(CacheError, match="is a link"):
        Cache(link).remove()
    assert cache.folder.exists()


def test_a_removal_that_fails_says_so_and_can_be_taken_up_again(monkeypatch, cache):
    (cache.folder / "venv").mkdir()

    def busy(path):
        raise OSError(39, "Directory not empty", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", busy)
        with pytest.raises(CacheError, match="run `clean` again"):
            cache.remove()
    assert cache.remove()
    assert not cache.folder.exists()


def test_an_installation_holds_its_new_folder(monkeypatch, tmp_path):
    folder = tmp_path / "new"

    def installing(cache, **_):
        with pytest.raises(CacheError, match="another run"), leftovers.alone(cache):
            pass

    monkeypatch.setattr("hack.vllm_cpu.__main__.install", installing)
    monkeypatch.setattr("sys.argv", ["vllm_cpu", "--dir", str(folder), "install"])
    assert main() == 0


def test_clean_does_not_follow_links_inside(cache, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    (cache.folder / "link").symlink_to(outside)
    assert cache.remove()
    assert (outside / "file").exists()


@pytest.mark.parametrize("inside", ["home", "home/me"])
def test_clean_refuses_a_marked_folder_that_holds_a_home(monkeypatch, tmp_path, inside):
    home = tmp_path / inside
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "home" / MARK).write_text("put there by mistake")
    with pytest.raises(CacheError, match="it is not removed"):
        Cache(tmp_path / "home").remove()
    assert home.exists()


def test_claim_refuses_a_folder_of_others(tmp_path):
    (tmp_path / "photo.jpg").write_text("a")
    with pytest.raises(CacheError, match="choose another --dir"):
        Cache(tmp_path).claim()
    assert not (tmp_path / MARK).exists()


def test_clean_command_leaves_strangers_alone(monkeypatch, tmp_path, capsys):
    (tmp_path / "photo.jpg").write_text("a")
    monkeypatch.setattr("sys.argv", ["vllm_cpu", "--dir", str(tmp_path), "clean"])
    assert main() == 1
    assert "it is not removed" in capsys.readouterr().err
    assert (tmp_path / "photo.jpg").exists()


def test_running_needs_an_installation(monkeypatch, cache, capsys):
    monkeypatch.setattr("sys.argv", ["vllm_cpu", "--dir", str(cache.folder), "run", "--case", "batch"])
    assert main() == 1
    assert "install" in capsys.readouterr().err


# what a killed run leaves behind


async def test_leftovers_are_known_by_their_folder_and_ended(cache, tmp_path):
    async def sleeper(folder):
        marked = os.environ | leftovers.mark(Cache(folder))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print(flush=True); import time; time.sleep(60)", env=marked, stdout=subprocess.PIPE
        )
        await process.stdout.readline()
        return process

    ours = await sleeper(cache.folder)
    strangers = [await sleeper(tmp_path / "other"), await sleeper(cache.folder / "deeper")]
    try:
        assert leftovers.processes(cache) == [ours.pid]
        assert await asyncio.to_thread(leftovers.end, cache) == 1
        assert await ours.wait() == -signal.SIGKILL
        assert [one.returncode for one in strangers] == [None, None]
        assert leftovers.end(cache) == 0
    finally:
        for process in (ours, *strangers):
            if process.returncode is None:
                process.kill()
                await process.wait()


def test_two_runs_do_not_share_a_folder(monkeypatch, cache, capsys):
    monkeypatch.setattr("sys.argv", ["vllm_cpu", "--dir", str(cache.folder), "clean"])
    with leftovers.alone(cache):
        assert main() == 1
        assert "another run" in capsys.readouterr().err
        assert cache.folder.exists()
    assert main() == 0
    assert not cache.folder.exists()


# the installation


def test_needed_leaves_torchs_family_and_extras_out():
    asked = [
        "numpy",
        'torch==2.13.0+cpu; platform_machine == "x86_64"',
        'torchaudio; platform_machine != "s390x"',
        "torchvision",
        "torchcodec>=0.14",
        'pandas; extra == "bench"',
        'setuptools==78.1.1; python_version > "3.11"',
        "torchsomethingelse",
    ]
    assert install.needed(asked) == [
        "numpy",
        'setuptools==78.1.1; python_version > "3.11"',
        "torchsomethingelse",
    ]


def test_needed_refuses_what_it_cannot_read():
    with pytest.raises(InstallError, match="no name"):
        install.needed(["@@"])


def test_torch_comes_from_pypi_or_from_a_named_index():
    assert install.torch_requirement(None) == ["torch==2.13.0"]
    assert install.torch_requirement("https://example.test/cpu") == [
        "torch==2.13.0+cpu",
        "--extra-index-url",
        "https://example.test/cpu",
    ]


def test_constraints_pin_everything_but_torch():
    lines = [line for line in install.CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 50
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    assert not [line for line in lines if line.partition("==")[0] in install.TORCH_FAMILY]


def test_pip_is_the_environments_and_keeps_nothing_elsewhere(cache):
    command = install.pip(cache, "install", "x")
    assert command[0] == str(cache.folder / "venv" / "bin" / "python")
    assert "--no-cache-dir" in command
    assert command[-2:] == ["install", "x"]


def test_alias_tells_vllm_that_it_is_on_a_cpu():
    folder, metadata = install.alias("0.32.0")
    assert folder == "vllm-0.32.0+cpu.dist-info"
    assert "Name: vllm\nVersion: 0.32.0+cpu\n" in metadata


def test_install_refuses_a_full_disk(monkeypatch, cache):
    monkeypatch.setattr(install, "FREE_BYTES", 10**18)
    with pytest.raises(InstallError, match="choose another --dir"):
        install.install(cache, torch_index=None, say=print)


# the model


def test_a_byte_is_a_token():
    alphabet = model.alphabet()
    assert len(set(alphabet)) == 256
    assert alphabet[ord("a")] == "a"
    # The byte-level convention writes a space as the 33rd character that is not printable.
    assert alphabet[ord(" ")] == "Ġ"
    tokenizer = model.files()["tokenizer.json"]
    assert tokenizer["model"]["merges"] == []
    assert tokenizer["model"]["vocab"]["a"] == ord("a")


def test_model_has_a_token_for_every_number_it_can_draw():
    files = model.files()
    tokens = len(files["tokenizer.json"]["model"]["vocab"]) + len(files["tokenizer.json"]["added_tokens"])
    assert files["config.json"]["vocab_size"] == tokens


def test_model_takes_2048_bytes_a_token():
    config = model.files()["config.json"]
    assert 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 2 == 2048
    assert model.BYTES_PER_TOKEN == 2048


# the command line


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_the_operator_reads_the_command_line(cache, case):
    line = server.command(cache, case.settings, port=8000)
    container = ContainerFacts(
        name="engine",
        cpu_request_cores=1.0,
        cpu_limit_cores=1.0,
        memory_request_bytes=1.0,
        memory_limit_bytes=1.0,
        gpus=0.0,
        arguments=tuple(line),
    )
    read = engine_settings.read((container,), None)
    assert read.engine is EngineKind.VLLM
    assert read.batch_limit == case.settings.batch_limit
    assert read.context_tokens == model.CONTEXT_TOKENS


def test_advice_replaces_the_dial(cache):
    settings = Settings(batch_limit=8, blocks=100, changed={"--max-num-seqs": "24"})
    line = server.command(cache, settings, port=8000)
    assert line.count("--max-num-seqs") == 1
    assert line[line.index("--max-num-seqs") + 1] == "24"


def test_advice_adds_a_flag(cache):
    settings = Settings(batch_limit=8, blocks=100, changed={"--kv-cache-dtype": "fp8"})
    line = server.command(cache, settings, port=8000)
    assert line[line.index("--kv-cache-dtype") + 1] == "fp8"
    assert line[line.index("--max-num-seqs") + 1] == "8"


def test_engine_listens_on_loopback_and_writes_into_the_folder_only(cache):
    line = server.command(cache, Settings(batch_limit=8, blocks=100), port=8000)
    assert line[line.index("--host") + 1] == "127.0.0.1"
    environment = server.environment(cache, Settings(batch_limit=8, blocks=100))
    assert environment["HF_HUB_OFFLINE"] == "1"
    folders = [value for value in environment.values() if value.startswith("/")]
    assert folders
    assert all(value.startswith(str(cache.folder)) for value in folders)


def test_kv_cache_is_given_as_blocks_or_as_memory(cache):
    blocks = Settings(batch_limit=8, blocks=100)
    memory = Settings(batch_limit=8, blocks=100, as_memory=True)
    assert blocks.flags()["--num-gpu-blocks-override"] == "100"
    assert memory.flags()["--kv-cache-memory-bytes"] == str(100 * 32 * 2048)
    assert "--num-gpu-blocks-override" not in memory.flags()
    # The variable would overrule the flag.
    assert "VLLM_CPU_KVCACHE_SPACE" in server.environment(cache, blocks)
    assert "VLLM_CPU_KVCACHE_SPACE" not in server.environment(cache, memory)


def test_cpu_time_is_that_of_the_session_only(tmp_path):
    def process(pid, *, session, name, user, system):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(
            f"{pid} ({name}) S 1 {session} {session} 0 -1 0 0 0 0 0 {user} {system} 0 0\n"
        )

    process(10, session=10, name="vllm", user=100, system=50)
    process(11, session=10, name="a (worker) S 1 2 3", user=200, system=50)
    process(12, session=99, name="vllm", user=1000, system=1000)
    (tmp_path / "13").mkdir()  # ended meanwhile
    assert server.session_cpu_seconds(10, proc=tmp_path) == pytest.approx(400 / os.sysconf("SC_CLK_TCK"))


# the load


loads = st.builds(
    Load,
    clients=st.integers(1, 4),
    prompt_tokens=st.tuples(st.integers(1, 20), st.integers(20, 60)),
    answer_tokens=st.tuples(st.integers(1, 20), st.integers(20, 60)),
    prefixes=st.integers(0, 3),
    prefix_tokens=st.integers(0, 40),
)


@given(load=loads, client=st.integers(0, 8), seed=st.integers(0, 2**32))
def test_requests_keep_the_lengths_that_were_asked_for(load, client, seed):
    for ask in islice(requests_of(load, client=client, seed=seed), 20):
        prefix = load.prefix_tokens if load.prefixes else 0
        assert load.prompt_tokens[0] <= len(ask.prompt) - prefix <= load.prompt_tokens[1]
        assert load.answer_tokens[0] <= ask.answer_tokens <= load.answer_tokens[1]
        assert len(ask.prompt) + ask.answer_tokens <= load.longest
        assert ask.prompt.isascii()


def test_a_clients_requests_depend_on_seed_and_client_only():
    load = Load(clients=2, prompt_tokens=(10, 90), answer_tokens=(10, 90), prefixes=2, prefix_tokens=30)

    def first(client, seed):
        return list(islice(requests_of(load, client=client, seed=seed), 5))

    assert first(0, 1) == first(0, 1)
    assert first(0, 1) != first(1, 1)
    assert first(0, 1) != first(0, 2)


def test_prefixes_are_shared_between_clients():
    load = Load(clients=2, prompt_tokens=(5, 5), answer_tokens=(1, 1), prefixes=3, prefix_tokens=64)
    seen = [{ask.prompt[:64] for ask in islice(requests_of(load, client=client, seed=7), 50)} for client in (0, 1)]
    assert seen[0] == seen[1]
    assert len(seen[0]) == 3


def test_an_answer_has_exactly_the_drawn_length():
    ask = next(requests_of(Load(clients=1, prompt_tokens=(5, 5), answer_tokens=(7, 7)), client=0, seed=1))
    body = ask.body("tiny")
    assert body["max_tokens"] == body["min_tokens"] == 7
    assert body["ignore_eos"] is True


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_cases_fit_their_engine(case):
    assert case.load.longest <= model.CONTEXT_TOKENS
    # vLLM refuses to start where one request of full context would not fit.
    assert case.settings.blocks * server.BLOCK_TOKENS >= model.CONTEXT_TOKENS


def test_compared_cases_are_what_their_truth_says():
    assert set(COMPARED) == {"batch", "kv"}
    batch, kv = CASES["batch"], CASES["kv"]
    assert batch.load.clients > batch.settings.batch_limit
    assert batch.load.clients * batch.load.longest < 0.9 * batch.settings.blocks * server.BLOCK_TOKENS
    assert kv.load.clients < kv.settings.batch_limit
    held = sum(kv.load.prompt_tokens) / 2 + sum(kv.load.answer_tokens) / 4
    assert kv.load.clients * held > kv.settings.blocks * server.BLOCK_TOKENS


# the pages


def test_recording_keeps_order_times_and_text(tmp_path):
    path = tmp_path / "folder" / "recording.tar.gz"
    pages.write(path, [Page(1700000000.25, b"first"), Page(1700000001.5, b"second")], prefix="batch")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        assert [one.name for one in members] == ["batch_0000.txt", "batch_0001.txt"]
        assert [one.mtime for one in members] == [1700000000.25, 1700000001.5]
        assert [archive.extractfile(one).read() for one in members] == [b"first", b"second"]


def page_text(*, running, generated):
    return (
        f'vllm:num_requests_running{{engine="0",model_name="tiny"}} {running}\n'
        f'vllm:num_requests_waiting{{engine="0",model_name="tiny"}} 4.0\n'
        f'vllm:kv_cache_usage_perc{{engine="0",model_name="tiny"}} 0.5\n'
        f'vllm:num_preemptions_total{{engine="0",model_name="tiny"}} {generated / 100}\n'
        f'vllm:generation_tokens_total{{engine="0",model_name="tiny"}} {generated}\n'
    ).encode()


def test_figures_come_from_pages_and_from_clients():
    seen = tuple(Page(1000.0 + n, page_text(running=2.0 * n, generated=100.0 * n)) for n in range(5))
    answers = tuple(
        Answer(sent=0.0, first=1.0 + n, done=2.0 + n, prompt_tokens=10, answer_tokens=20) for n in range(20)
    )
    phase = Phase(pages=seen, began=0.0, seconds=10.0, answers=answers, engine_cores=1.25)
    figures = figures_of(phase)
    assert figures.running == pytest.approx(4.0)
    assert figures.running_max == 8.0
    assert figures.preemptions == pytest.approx(4.0)
    assert figures.generation_rate == pytest.approx(100.0)
    assert figures.client_rate == pytest.approx(40.0)
    assert figures.client_first_token_p95 == 19.0
    assert figures.engine_cores == 1.25
    assert isinstance(figures.queue_time_p95, Unknown)


def test_pages_from_before_all_clients_joined_do_not_count():
    seen = tuple(Page(1000.0 + n, page_text(running=2.0 * n, generated=100.0 * n)) for n in range(5))
    phase = Phase(pages=seen, began=1002.5, seconds=2.0, answers=(), engine_cores=1.0)
    assert phase.joining == 3
    figures = figures_of(phase)
    assert figures.running == pytest.approx(7.0)
    assert figures.preemptions == pytest.approx(1.0)


def test_nothing_completed_is_unknown_and_not_zero():
    seen = tuple(Page(1000.0 + n, page_text(running=0.0, generated=0.0)) for n in range(3))
    figures = figures_of(Phase(pages=seen, began=0.0, seconds=3.0, answers=(), engine_cores=0.0))
    assert isinstance(figures.client_latency_mean, Unknown)
    assert isinstance(figures.client_first_token_p95, Unknown)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_p95_covers_what_it_says(values):
    found = p95_of(values)
    assert found in values
    assert sum(value <= found for value in values) >= 0.95 * len(values)


# the advice


def test_analysis_gets_the_real_command_line(tmp_path):
    line = ["/somewhere/vllm", "serve", "model with space", "--max-num-seqs", "8"]
    call = advice.command(tmp_path / "pages.tar.gz", line)
    assert call[1:4] == ["analyze", "engine", str(tmp_path / "pages.tar.gz")]
    assert shlex.join(line) in call
    assert call[-1] == "--json"


def test_advice_is_read_as_the_command_prints_it():
    output = {
        "pages": [
            {"page": "a", "verdict": "Unknown", "confidence": 0.0},
            {"page": "b", "verdict": "Batch", "confidence": 0.8},
            {"page": "c", "verdict": "Batch", "confidence": 0.9},
        ],
        "advice": [
            {"type": "Tuning", "setting": "--max-num-seqs", "current": "8", "proposed": "16", "reason": "R"},
            {"type": "KVCache", "setting": "", "current": "", "proposed": "", "reason": "NotLimiting"},
        ],
    }
    found = advice.read(json.dumps(output).encode())
    assert found.verdict == "Batch"
    assert found.confidence == 0.9
    assert found.verdicts == (("Batch", 2), ("Unknown", 1))
    assert [(one.setting, one.proposed) for one in found.proposals] == [("--max-num-seqs", "16")]


def test_pages_of_the_joining_clients_are_not_counted():
    output = {"pages": [{"verdict": name, "confidence": 1.0} for name in ("Healthy", "Queue", "Batch")], "advice": []}
    assert advice.read(json.dumps(output).encode(), skip=2).verdicts == (("Batch", 1),)


@pytest.mark.parametrize("output", [b"", b"[]", b"{}", b'{"pages": [], "advice": []}', b'{"pages": 3}'])
def test_other_output_is_no_advice(output):
    with pytest.raises(AdviceError, match="promises"):
        advice.read(output)


def test_first_proposed_flag_is_applied_unless_one_is_named():
    said = analysis(proposal("lmcache", "off"), proposal("--kv-cache-dtype", "fp8"), proposal("--max-num-seqs", "6"))
    assert advice.choose(said, setting=None).setting == "--kv-cache-dtype"
    assert advice.choose(said, setting="--max-num-seqs").proposed == "6"


def test_without_a_proposed_flag_nothing_is_made_up():
    with pytest.raises(AdviceError, match="flags proposed: none"):
        advice.choose(analysis(proposal("lmcache", "off"), verdict="KVCache"), setting=None)
    with pytest.raises(AdviceError, match="no proposal is about --max-model-len"):
        advice.choose(analysis(proposal("--max-num-seqs")), setting="--max-model-len")


# the table


def seen(figures, verdict="Batch"):
    return Seen(case=CASES["batch"], command=("vllm",), pages=None, figures=figures, analysis=analysis(verdict=verdict))


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_table_shows_before_after_and_change():
    after = dataclasses.replace(
        MEASURED,
        generation_rate=300.0,
        queue_time_p95=Unknown(UnknownReason.NOT_MEASURED, "no page carries it"),
    )
    comparison = Comparison(before=seen(MEASURED), proposal=proposal("--max-num-seqs"), after=seen(after, "Healthy"))
    rows = {row[0]: row[1:] for row in cells(table.both(comparison))}
    assert rows["batch"] == ["before", "after", "change"]
    assert rows["`--max-num-seqs`"] == ["8", "16", ""]
    assert rows["verdict of most pages"] == ["Batch (90 of 100)", "Healthy (90 of 100)", ""]
    assert rows["tokens generated a second (engine)"] == ["200", "300", "+50%"]
    assert rows["time in queue, p95 (engine)"] == ["4.00 s", "unknown", ""]
    # No change in per cent of nothing.
    assert rows["preemptions"] == ["0", "0", ""]
    assert all(len(row) == 3 for row in rows.values())


def test_predictions_stand_beside_what_came():
    effects = (
        Effect(signal="generation_tokens", unit="tokens/s", before=100.0, lower=110.0, upper=None),
        Effect(signal="requests_that_fit", unit="", before=9.0, lower=9.0, upper=20.0),
    )
    applied = dataclasses.replace(proposal("--max-num-seqs"), effects=effects)
    comparison = Comparison(before=seen(MEASURED), proposal=applied, after=seen(MEASURED))
    rows = {row[0]: row[1:] for row in cells(table.predictions(comparison))}
    assert rows["generation_tokens, tokens/s"] == ["100", "110 to unknown", "200"]
    assert rows["requests_that_fit"] == ["9", "9 to 20", "not measured"]
    assert table.predictions(dataclasses.replace(comparison, proposal=proposal("--max-num-seqs"))) == ""


def test_table_of_one_phase():
    rows = {row[0]: row[1:] for row in cells(table.one(seen(MEASURED)))}
    assert rows["KV cache used, highest"] == ["50%"]
    assert rows["whole request, p95 (clients)"] == ["9.00 s"]


# the drive, against a stub that speaks the engine's API


def stub(*, answer, asked):
    async def complete(request):
        asked.append(await request.json())
        if answer is None:
            return web.Response(status=400, text="too long")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in answer:
            await response.write(b"data: " + event + b"\n\n")
        return response

    async def metrics(_request):
        return web.Response(body=page_text(running=1.0, generated=5.0))

    application = web.Application()
    application.router.add_post("/v1/completions", complete)
    application.router.add_get("/metrics", metrics)
    return TestServer(application)


TOKEN = b'{"choices": [{"text": "a"}]}'
USAGE = b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}'
LOAD = Load(clients=2, prompt_tokens=(5, 9), answer_tokens=(3, 3), pause_seconds=0.02)
COURSE = Course(join=0.1, settle=0.1, watch=0.3)


async def test_drive_offers_the_planned_load_and_keeps_pages():
    asked = []
    clock = iter((10.0, 10.6))
    async with stub(answer=[TOKEN, TOKEN, USAGE, b"[DONE]"], asked=asked) as engine:
        phase = await drive(str(engine.make_url("")), LOAD, COURSE, seed=3, cpu_seconds=lambda: next(clock))
    planned = {ask.prompt for client in (0, 1) for ask in islice(requests_of(LOAD, client=client, seed=3), len(asked))}
    assert {body["prompt"] for body in asked} <= planned
    assert phase.answers
    assert {(one.prompt_tokens, one.answer_tokens) for one in phase.answers} == {(7, 3)}
    assert all(one.sent <= one.first <= one.done for one in phase.answers)
    assert 0 < phase.joining < len(phase.pages)
    assert phase.engine_cores == pytest.approx(0.6 / phase.seconds)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "answers 400 to a completion: too long"),
        ([TOKEN, b'{"error": {"message": "died"}}'], "broke a completion off"),
        ([b"[DONE]"], "without a token"),
    ],
)
async def test_a_refused_or_broken_request_ends_the_run(answer, message):
    async with stub(answer=answer, asked=[]) as engine:
        with pytest.raises(LoadError, match=message):
            await drive(str(engine.make_url("")), LOAD, COURSE, seed=3, cpu_seconds=lambda: 0.0)


async def test_an_engine_that_is_gone_ends_the_run():
    async with stub(answer=[TOKEN, USAGE], asked=[]) as engine:
        url = str(engine.make_url(""))
    with pytest.raises(LoadError, match="does not answer"):
        await drive(url, LOAD, COURSE, seed=3, cpu_seconds=lambda: 0.0)


@pytest.mark.parametrize("seconds", ["5", "901", "nan"])
def test_phases_are_bounded(monkeypatch, cache, seconds, capsys):
    monkeypatch.setattr(
        "sys.argv", ["vllm_cpu", "--dir", str(cache.folder), "run", "--case", "kv", "--seconds", seconds]
    )
    with pytest.raises(SystemExit):
        main()
    assert "is not within" in capsys.readouterr().err
