"""Queries for one service: the pods of one workload and no others, by names that the engines publish."""

import re

import pytest

from optiinfra.engines import sglang, tgi, vllm
from optiinfra.engines.promql import ServiceNameError, service_queries

METRIC = re.compile(r"\b(vllm:|sglang:|tgi_)([a-z_]+)\{")
TABLES = {table.prefix: table for table in (vllm.TABLE, sglang.TABLE, tgi.TABLE)}


def pods(service="inference/chat"):
    """The regular expression of the query, as RE2 gets it: anchored, after PromQL took its escapes off."""
    found = set(re.findall(r'pod=~"((?:[^"\\]|\\.)*)"', service_queries(service).work))
    assert len(found) == 1
    return re.compile(found.pop().replace("\\\\", "\\"))


def all_queries():
    made = service_queries("inference/chat")
    return [made.work, made.ready, made.waiting, made.running]


@pytest.mark.parametrize(
    "pod",
    ["chat-6d4cf56db6-x7k2p", "chat-7b9f-abcde".replace("abcde", "bcdfg"), "chat-0", "chat-12", "chat-0-1", "chat-3-0"],
)
def test_pods_of_the_workload_are_meant(pod):
    assert pods().fullmatch(pod)


@pytest.mark.parametrize(
    "pod",
    [
        "chat-large-6d4cf56db6-x7k2p",
        "chat-large-0",
        "chat",
        "chatty-0",
        "my-chat-0",
        "chat-6d4cf56db6-x7k2p-extra",
        "chat-router-7d9bc5f8d4-zzzzz",
    ],
)
def test_pods_of_others_are_not(pod):
    assert not pods().fullmatch(pod)


def test_a_dot_in_a_name_is_a_dot():
    assert pods("inference/qwen2.5").fullmatch("qwen2.5-0")
    assert not pods("inference/qwen2.5").fullmatch("qwen2x5-0")


def test_every_metric_is_one_that_the_tables_of_the_engines_read():
    named = {match for query in all_queries() for match in METRIC.findall(query)}
    assert {prefix for prefix, _ in named} == set(TABLES)
    for prefix, name in named:
        table = TABLES[prefix]
        known = {one.text for alias in table.aliases for one in alias.names}
        assert re.sub(r"_sum$", "", name) in known or name in known, name


@pytest.mark.parametrize("query", all_queries())
def test_a_query_is_balanced_and_names_the_namespace_everywhere(query):
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    for opening, closing in ("()", "{}", "[]"):
        assert bare.count(opening) == bare.count(closing)
    assert query.count('namespace="inference"') == len(METRIC.findall(query))


@pytest.mark.parametrize("name", ["", "chat", "/chat", "a/", "a/b/c", 'a/b"', "A/b", "a/b c", "a/" + "x" * 300])
def test_what_is_no_service_is_refused(name):
    with pytest.raises(ServiceNameError, match="write NAMESPACE/NAME"):
        service_queries(name)
