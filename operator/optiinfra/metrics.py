"""The operator's own Prometheus metrics, in one registry of its own.

Labels are closed sets (verbs, codes, steps, reasons); the only names of objects that appear are those of
`ResourceOptimization`s in the gauges that scalers read, in those of cost and in that of the newest action (whose id it
carries), and those of pools. Series of deleted or
unsure objects are removed: a scaler must never see an old constant.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

ROUNDS = Counter("optiinfra_rounds", "Rounds by outcome.", ["outcome"], registry=REGISTRY)
ROUND_OBJECTS = Counter("optiinfra_round_objects", "Objects that went through a round.", registry=REGISTRY)
STEP_SECONDS = Histogram(
    "optiinfra_round_step_seconds", "Duration of a round's steps.", ["step"], buckets=_SECONDS, registry=REGISTRY
)
OBJECT_FAILURES = Counter(
    "optiinfra_object_failures", "Objects whose own part of a round failed.", ["step", "reason"], registry=REGISTRY
)
LATE_OBJECTS = Counter(
    "optiinfra_late_objects",
    "Objects whose calls to the API server took long, so that their round went on without them.",
    ["step"],
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("optiinfra_queue_depth", "Objects waiting for a round, due or not.", registry=REGISTRY)
QUEUE_DUE = Gauge("optiinfra_queue_due", "Objects that are due now.", registry=REGISTRY)
OBJECTS = Gauge("optiinfra_objects", "Custom resources known.", ["kind"], registry=REGISTRY)
LAST_ROUND = Gauge("optiinfra_last_round_timestamp_seconds", "When the last round ended.", registry=REGISTRY)
MEMORY_TRIMS = Counter(
    "optiinfra_memory_trims",
    "Times that free memory was given back to the system: after which burst, and whether there was any.",
    ["burst", "outcome"],
    registry=REGISTRY,
)
LEADER = Gauge("optiinfra_leader", "1 while this replica holds the Lease.", registry=REGISTRY)
KILL_SWITCH = Gauge(
    "optiinfra_kill_switch", "1 while the kill switch stops this replica: on, or unreadable.", registry=REGISTRY
)
KILL_SWITCH_READS = Counter(
    "optiinfra_kill_switch_reads", "Looks at the kill switch by what it said.", ["outcome"], registry=REGISTRY
)
POOL_GPUS = Gauge(
    "optiinfra_pool_gpus",
    "GPUs of a pool with a gpuBudget: the budget, held by its objects, refused to them.",
    ["pool", "what"],
    registry=REGISTRY,
)
SHRINK_IN_FLIGHT = Gauge(
    "optiinfra_shrink_in_flight",
    "What is being taken away and is not verified yet, over all objects.",
    ["unit"],
    registry=REGISTRY,
)
LIMITED = Gauge(
    "optiinfra_limited_targets", "Targets whose number a limit of policy changed.", ["limit"], registry=REGISTRY
)
SILENT_MIRRORS = Gauge(
    "optiinfra_silent_mirrors",
    "Mirrored collections of which the API server tells nothing any more.",
    registry=REGISTRY,
)
API_CALLS = Counter("optiinfra_api_calls", "Calls to the API server.", ["verb", "resource", "code"], registry=REGISTRY)
API_SECONDS = Histogram(
    "optiinfra_api_call_seconds", "Duration of calls to the API server.", ["verb"], buckets=_SECONDS, registry=REGISTRY
)
STATUS_WRITES = Counter("optiinfra_status_writes", "Status writes by outcome.", ["kind", "outcome"], registry=REGISTRY)
SCRAPES = Counter("optiinfra_scrapes", "Pages read from engines and agents.", ["source", "outcome"], registry=REGISTRY)
SCRAPE_SECONDS = Histogram(
    "optiinfra_scrape_seconds", "Duration of reading one page.", ["source"], buckets=_SECONDS, registry=REGISTRY
)
METRICS_SERVER_UP = Gauge(
    "optiinfra_metrics_server_up",
    "1 while a metrics server answers, 0 while it does not; only servers that are asked.",
    ["server"],
    registry=REGISTRY,
)
METRICS_SERVER_QUERIES = Counter(
    "optiinfra_metrics_server_queries",
    "Queries to metrics servers by what they were for (engines, nodes, containers, history) and how they ended.",
    ["purpose", "outcome"],
    registry=REGISTRY,
)
METRICS_SERVER_SAMPLES = Counter(
    "optiinfra_metrics_server_samples", "Samples read from metrics servers.", ["purpose"], registry=REGISTRY
)
METRICS_SERVER_SECONDS = Histogram(
    "optiinfra_metrics_server_query_seconds",
    "Duration of one query to a metrics server.",
    ["purpose"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
FINDINGS = Gauge("optiinfra_findings", "Findings that stand now.", ["type", "reason"], registry=REGISTRY)
RECOMMENDATIONS = Gauge("optiinfra_recommendations", "Recommendations that stand now.", ["type"], registry=REGISTRY)
AGENTS = Gauge("optiinfra_agents", "Agents that registered, by what became of them.", ["state"], registry=REGISTRY)
UNHEALTHY_GPUS = Gauge(
    "optiinfra_unhealthy_gpus", "GPUs that are not well, by what is wrong.", ["reason"], registry=REGISTRY
)
ACTIONS = Counter("optiinfra_actions", "Actions by actuation and outcome.", ["actuation", "outcome"], registry=REGISTRY)
LAST_ACTION = Gauge(
    "optiinfra_last_action_timestamp_seconds",
    "When the newest action of a workload came to its outcome; one series a workload, named by the action's id.",
    ["namespace", "name", "target", "action", "outcome"],
    registry=REGISTRY,
)
INSIGHTS = Counter("optiinfra_insights", "Questions to the LLM by outcome.", ["outcome"], registry=REGISTRY)
LLM_TOKENS = Counter("optiinfra_llm_tokens", "Tokens spent on insights.", ["direction"], registry=REGISTRY)
CHECKPOINTS = Counter("optiinfra_checkpoints", "Checkpoint writes by outcome.", ["outcome"], registry=REGISTRY)
KV_OPTKIT = Gauge(
    "optiinfra_kv_optkit_available", "1 while the configured KV-OptKit server gives a plan.", registry=REGISTRY
)
SAVINGS_GPU_HOURS = Counter(
    "optiinfra_savings_gpu_hours",
    "GPU-hours no longer asked for, or asked for in addition, by who did it and on which basis it is claimed.",
    ["cause", "basis", "direction"],
    registry=REGISTRY,
)
SAVINGS_CORE_HOURS = Counter(
    "optiinfra_savings_cpu_core_hours", "The same of CPU cores.", ["cause", "basis", "direction"], registry=REGISTRY
)
SAVINGS_GIB_HOURS = Counter(
    "optiinfra_savings_memory_gib_hours",
    "The same of GiB of memory.",
    ["cause", "basis", "direction"],
    registry=REGISTRY,
)
SAVINGS_MONEY = Counter(
    "optiinfra_savings_money",
    "Money not paid because nodes went or were not bought, or paid for nodes that came.",
    ["cause", "basis", "direction", "currency"],
    registry=REGISTRY,
)
SAVINGS_OPEN = Gauge(
    "optiinfra_savings_open_entries", "Open entries of the savings ledgers.", ["cause", "basis"], registry=REGISTRY
)
SAVINGS_POTENTIAL = Gauge(
    "optiinfra_savings_potential_per_month",
    "Money a month that the recommendations would save; absent while no price is known.",
    ["kind", "currency"],
    registry=REGISTRY,
)
SAVINGS_POTENTIAL_GPUS = Gauge(
    "optiinfra_savings_potential_gpus", "GPUs that the recommendations would free.", ["kind"], registry=REGISTRY
)
PRICE_SOURCE_UP = Gauge(
    "optiinfra_price_source_up", "1 while a configured source of prices answers.", ["source"], registry=REGISTRY
)
PRICED_NODES = Gauge("optiinfra_priced_nodes", "Nodes by the source of their price.", ["source"], registry=REGISTRY)
POOL_COST = Gauge(
    "optiinfra_pool_cost_per_hour",
    "What the nodes of a pool cost an hour; absent while one of them has no price.",
    ["pool", "currency"],
    registry=REGISTRY,
)
SERVICE_COST = Gauge(
    "optiinfra_service_cost_per_hour",
    "What a service costs an hour, held or used; absent while that is not known.",
    ["namespace", "name", "charge", "currency"],
    registry=REGISTRY,
)
TOKEN_COST = Gauge(
    "optiinfra_service_cost_per_million_tokens",
    "What a million tokens of a service cost over the last hour; absent while that is not known.",
    ["namespace", "name", "kind", "basis", "charge", "currency"],
    registry=REGISTRY,
)
DESIRED_REPLICAS = Gauge(
    "optiinfra_desired_replicas",
    "Replicas decided for a service; absent while the operator is unsure.",
    ["namespace", "name"],
    registry=REGISTRY,
)
EXTERNAL_METRICS_SERVED = Gauge(
    "optiinfra_external_metrics_served",
    "1 while external.metrics.k8s.io leads to this release; 0 when it is off or somebody else owns it.",
    registry=REGISTRY,
)
KEDA_CALLS = Counter(
    "optiinfra_keda_calls",
    "Calls of KEDA's external scaler by method and gRPC status; every status but OK makes KEDA fall back.",
    ["method", "code"],
    registry=REGISTRY,
)
KEDA_CONNECTIONS = Gauge("optiinfra_keda_connections", "Open connections of KEDA to this replica.", registry=REGISTRY)
SIGNAL_TO_DECISION = Histogram(
    "optiinfra_signal_to_decision_seconds",
    "From the scrape that a decision used to its publication.",
    buckets=(0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 30.0, 60.0),
    registry=REGISTRY,
)
