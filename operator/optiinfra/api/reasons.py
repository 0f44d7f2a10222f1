"""What each reason of a condition means, in one sentence, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Why a condition is as it is. Closed: `EXPLANATIONS` has a sentence for each."""

    # well
    SUCCEEDED = "Succeeded"
    NOT_YET_ANALYZED = "NotYetAnalyzed"
    COLLECTING = "Collecting"
    PARTIAL_METRICS = "PartialMetrics"
    # the spec and what it points at
    INVALID_SPEC = "InvalidSpec"
    TARGET_NOT_FOUND = "TargetNotFound"
    TARGET_WITHOUT_SCALE = "TargetWithoutScale"
    CONFLICT = "Conflict"
    SUSPENDED = "Suspended"
    OTHER_OPERATOR = "OtherOperator"
    # scalers
    SCALER_NOT_FOUND = "ScalerNotFound"
    SEVERAL_SCALERS = "SeveralScalers"
    SCALER_EXISTS = "ScalerExists"
    FIELD_OWNED = "FieldOwned"
    SCALER_OWNED_BY_CONTROLLER = "ScalerOwnedByController"
    SCALER_INACTIVE = "ScalerInactive"
    FLOOR_LOST = "FloorLost"
    MAXIMUM_LOWERED = "MaximumLowered"
    ONE_WAY_FLOOR = "OneWayFloor"
    NOBODY_LISTENS = "NobodyListens"
    NOT_PUBLISHED = "NotPublished"
    METRIC_API_OWNED = "MetricApiOwned"
    RECOMMEND_ONLY = "RecommendOnly"
    DRY_RUN = "DryRun"
    AWAITING_APPROVAL = "AwaitingApproval"
    APPROVAL_REFUSED = "ApprovalRefused"
    PODS_PENDING = "PodsPending"
    AT_LIMIT = "AtLimit"
    SCALING_IN_PROGRESS = "ScalingInProgress"
    WITHIN_TOLERANCE = "WithinTolerance"
    QUOTA_EXCEEDED = "QuotaExceeded"
    PODS_REFUSED = "PodsRefused"
    REPLICAS_NOT_READY = "ReplicasNotReady"
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    PAUSED = "Paused"
    PERMISSION_MISSING = "PermissionMissing"
    # engines, agents, metrics
    NO_PODS = "NoPods"
    NODES_NOT_READY = "NodesNotReady"
    ENGINE_UNREACHABLE = "EngineUnreachable"
    ENGINE_PAGE_INVALID = "EnginePageInvalid"
    ENGINE_REFUSED = "EngineRefused"
    AGENT_UNREACHABLE = "AgentUnreachable"
    METRICS_STALE = "MetricsStale"
    METRICS_SERVER_UNREACHABLE = "MetricsServerUnreachable"
    METRICS_SERVER_REFUSED = "MetricsServerRefused"
    METRICS_SERVER_INVALID = "MetricsServerInvalid"
    METRICS_SERVER_NOT_CONFIGURED = "MetricsServerNotConfigured"
    SERIES_MISSING = "SeriesMissing"
    USAGE_INVALID = "UsageInvalid"
    INVALID_DATA = "InvalidData"
    GPU_UNHEALTHY = "GPUUnhealthy"
    # limits of pools
    POOL_OVER_LIMIT = "PoolOverLimit"
    POOL_OVER_BUDGET = "PoolOverBudget"
    POOL_OVER_GPU_BUDGET = "PoolOverGpuBudget"
    POOL_SHORT = "PoolShort"
    # insights
    NOT_CONFIGURED = "NotConfigured"
    DISABLED = "Disabled"
    AUTHENTICATION_FAILED = "AuthenticationFailed"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    RATE_LIMITED = "RateLimited"
    ENDPOINT_UNREACHABLE = "EndpointUnreachable"
    ANSWER_INVALID = "AnswerInvalid"
    NOTHING_TO_EXPLAIN = "NothingToExplain"
    # the operator itself
    ANALYSIS_FAILED = "AnalysisFailed"
    API_ERROR = "ApiError"
    ROLLED_BACK = "RolledBack"
    KILL_SWITCH = "KillSwitch"
    KILL_SWITCH_UNREADABLE = "KillSwitchUnreadable"
    # prices
    PRICE_MISSING = "PriceMissing"
    PRICE_INVALID = "PriceInvalid"
    CURRENCY_MISMATCH = "CurrencyMismatch"
    PRICES_UNREADABLE = "PricesUnreadable"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a reason means, and what to do about it."""

    sentence: str
    remedy: str = ""
    """Empty when nothing has to be done."""

    def __str__(self) -> str:
        return f"{self.sentence} {self.remedy}".rstrip()


EXPLANATIONS: Final = {
    Reason.SUCCEEDED: Explanation("Everything that was asked for was done."),
    Reason.NOT_YET_ANALYZED: Explanation("No round has finished for this generation yet."),
    Reason.COLLECTING: Explanation("Measurements are being collected; there are not enough yet to say something."),
    Reason.PARTIAL_METRICS: Explanation(
        "Some replicas or signals are not measured.", "See the message for which; what is missing is never guessed."
    ),
    Reason.INVALID_SPEC: Explanation(
        "The spec cannot be acted on.", "Correct the named field; the API server checks it on the next change."
    ),
    Reason.TARGET_NOT_FOUND: Explanation(
        "The target does not exist.", "Create it, or correct spec.targetRef in a new object."
    ),
    Reason.TARGET_WITHOUT_SCALE: Explanation(
        "The target has no scale subresource.",
        "Point targetRef at the object that owns the pods, such as its Deployment or LeaderWorkerSet.",
    ),
    Reason.CONFLICT: Explanation(
        "An older ResourceOptimization acts on the same target.", "Delete one of the two; only the older one acts."
    ),
    Reason.SUSPENDED: Explanation("spec.suspend is true: nothing is decided or held.", "Set it to false to go on."),
    Reason.OTHER_OPERATOR: Explanation(
        "Another installation of the operator sees the object too; only one of them looks after it.",
        "Uninstall one of the two, or give each namespaces of its own (scope: Namespaces).",
    ),
    Reason.SCALER_NOT_FOUND: Explanation(
        "No HorizontalPodAutoscaler drives the target.",
        "Create one, name it in spec.scaling.scalerRef, or use actuation Own.",
    ),
    Reason.SEVERAL_SCALERS: Explanation(
        "Several HorizontalPodAutoscalers drive the target, and they fight each other.", "Delete all but one."
    ),
    Reason.SCALER_EXISTS: Explanation(
        "Another HorizontalPodAutoscaler targets the workload, so none is created for actuation Own.",
        "Delete it, or use actuation Signal or Floor.",
    ),
    Reason.FIELD_OWNED: Explanation(
        "Another manager owns minReplicas of the HorizontalPodAutoscaler.",
        "Remove minReplicas from that manager's manifest; it is never taken by force.",
    ),
    Reason.SCALER_OWNED_BY_CONTROLLER: Explanation(
        "A controller owns the HorizontalPodAutoscaler and would undo every change.",
        "Change the field on that parent object, as the recommendation says.",
    ),
    Reason.SCALER_INACTIVE: Explanation(
        "The HorizontalPodAutoscaler says that it cannot scale (ScalingActive is not True).",
        "See its conditions; usually its metric source is away.",
    ),
    Reason.FLOOR_LOST: Explanation(
        "Somebody changed the floor; the new value now counts as the original.",
        "Nothing is forced again; to arm it anew set takeover to Never, and to Once when status.takeovers is empty.",
    ),
    Reason.MAXIMUM_LOWERED: Explanation(
        "Somebody lowered maxReplicas to the held floor, so the floor gave way at once.",
        "It rises again after policy.cooldown, or as soon as maxReplicas is raised.",
    ),
    Reason.ONE_WAY_FLOOR: Explanation(
        "The floor can rise but not fall, because the HorizontalPodAutoscaler itself is not active.",
        "Repair the metric that it scales on.",
    ),
    Reason.NOBODY_LISTENS: Explanation(
        "The desired count is published, but the replicas do not follow it.",
        "Let a HorizontalPodAutoscaler or KEDA read optiinfra_desired_replicas, or use actuation Own.",
    ),
    Reason.NOT_PUBLISHED: Explanation(
        "No desired count is published, because the measurements do not support one.",
        "See MetricsAvailable; the scaler's own fallback holds until then.",
    ),
    Reason.METRIC_API_OWNED: Explanation(
        "Another server owns external.metrics.k8s.io, and a cluster has only one.",
        "Use KEDA's external scaler or a Prometheus trigger on optiinfra_desired_replicas.",
    ),
    Reason.RECOMMEND_ONLY: Explanation("The mode is Recommend: nothing is written.", "Use Approve or Auto to act."),
    Reason.DRY_RUN: Explanation(
        "The annotation optiinfra.io/dry-run is true: what would be done is shown in status.dryRun, and nothing is.",
        "Remove the annotation to let it act.",
    ),
    Reason.AWAITING_APPROVAL: Explanation(
        "A recommendation waits for a human.", "Put its id into the annotation optiinfra.io/approve."
    ),
    Reason.APPROVAL_REFUSED: Explanation(
        "An id in the annotation optiinfra.io/approve approves nothing.",
        "Take it out; approve an id that status.recommendations shows now.",
    ),
    Reason.PODS_PENDING: Explanation(
        "Pods of the target are Pending, so more replicas would not help.",
        "See their events; usually GPUs or quota are missing.",
    ),
    Reason.AT_LIMIT: Explanation(
        "The decision is capped by a limit.", "Raise maxReplicas, the pool's maxGpus or the budget if that is wanted."
    ),
    Reason.SCALING_IN_PROGRESS: Explanation("The replicas are on their way to the decided count."),
    Reason.WITHIN_TOLERANCE: Explanation(
        "The scaler ignores so small a change.", "Set its tolerance to 0 (Kubernetes 1.35) if every replica counts."
    ),
    Reason.QUOTA_EXCEEDED: Explanation(
        "Replicas were asked for and a ResourceQuota refuses their pods.",
        "Raise the quota that the message names, or lower the maximum.",
    ),
    Reason.PODS_REFUSED: Explanation(
        "Replicas were asked for and their pods are not made.",
        "See the message and the events of the workload: an admission refuses them.",
    ),
    Reason.REPLICAS_NOT_READY: Explanation(
        "Replicas were asked for and have not become ready in the time that they usually take.",
        "See the logs and events of the pods that the message names.",
    ),
    Reason.ROLLOUT_IN_PROGRESS: Explanation(
        "A rollout is in progress: replicas come and go with it.", "Wait for it, or undo it where it is stuck."
    ),
    Reason.PAUSED: Explanation(
        "Somebody paused the workload or its scaler.", "Resume it (kubectl rollout resume, or a count above zero)."
    ),
    Reason.PERMISSION_MISSING: Explanation(
        "The operator may not make this change.", "Enable the actuation Role in the chart's values."
    ),
    Reason.NO_PODS: Explanation("The target has no running pods, so there is nothing to measure."),
    Reason.NODES_NOT_READY: Explanation(
        "Nodes of the target are not ready, so it is not known what runs there and what it does.",
        "See the node's conditions and its kubelet; until it is back nothing is taken away.",
    ),
    Reason.ENGINE_UNREACHABLE: Explanation(
        "No engine page could be read.", "Check spec.engine.port and the network policies between operator and pods."
    ),
    Reason.ENGINE_PAGE_INVALID: Explanation(
        "What the engine answered is not a page of metrics.", "Check spec.engine.port, path and scheme."
    ),
    Reason.ENGINE_REFUSED: Explanation(
        "The engine refuses to show its metrics (401 or 403).",
        "Serve the metrics page without a key, on a port that only the operator's NetworkPolicy lets in.",
    ),
    Reason.AGENT_UNREACHABLE: Explanation(
        "The agents of the target's nodes do not answer, so GPU use is unknown.",
        "Check the agent's DaemonSet and the network policies.",
    ),
    Reason.METRICS_STALE: Explanation(
        "The last measurements are too old to decide on.", "Shrinking is blocked until new ones arrive."
    ),
    Reason.METRICS_SERVER_UNREACHABLE: Explanation(
        "The metrics server does not answer.",
        "Check its address in the object or the chart, and the network policies; decisions hold until it answers.",
    ),
    Reason.METRICS_SERVER_REFUSED: Explanation(
        "The metrics server refuses the operator.",
        "Check the token, certificate and tenant in the chart's metricsServer; credentials go to that address alone.",
    ),
    Reason.METRICS_SERVER_INVALID: Explanation(
        "What the metrics server answered is not what Prometheus answers.",
        "Check the path of its address (Mimir: /prometheus), and whether a login page stands before it.",
    ),
    Reason.METRICS_SERVER_NOT_CONFIGURED: Explanation(
        "The engine's source is Prometheus, and no server can be asked.",
        "Set metricsServer.url in the chart's values, or metricsSources of the ClusterResourceOptimization.",
    ),
    Reason.SERIES_MISSING: Explanation(
        "The metrics server has no series of the engine for these pods.",
        "Let it scrape the pods, and keep the labels namespace and pod; the settings can name others.",
    ),
    Reason.USAGE_INVALID: Explanation(
        "metrics.k8s.io says of a container what cannot be, so nothing is sized on it.",
        "Look at metrics-server and the clocks of the nodes; sizing goes on 15 minutes after the last such sample.",
    ),
    Reason.NOT_CONFIGURED: Explanation(
        "No endpoint for insights is configured.", "Set one in the chart's values, or leave it: all else works."
    ),
    Reason.DISABLED: Explanation("Insights are switched off for this object (spec.insights.enabled is false)."),
    Reason.AUTHENTICATION_FAILED: Explanation(
        "The endpoint for insights refuses the key.", "Put a valid key into the mounted Secret."
    ),
    Reason.BUDGET_EXHAUSTED: Explanation(
        "The token budget of the day is spent.", "Raise spec.insights.dailyTokenBudget, or wait until tomorrow (UTC)."
    ),
    Reason.RATE_LIMITED: Explanation("The endpoint for insights limits our rate; asked again later."),
    Reason.ENDPOINT_UNREACHABLE: Explanation(
        "The endpoint for insights does not answer.", "Check its address and the way out of the cluster."
    ),
    Reason.ANSWER_INVALID: Explanation(
        "The model's answer did not pass the checks and was thrown away.", "Nothing to do; a better model helps."
    ),
    Reason.NOTHING_TO_EXPLAIN: Explanation("There are no recommendations, so nothing was asked."),
    Reason.ANALYSIS_FAILED: Explanation(
        "The analysis of this object failed; others are not affected.", "Report the message with the operator's log."
    ),
    Reason.API_ERROR: Explanation("The API server refused or failed a call.", "See the message; it is tried again."),
    Reason.ROLLED_BACK: Explanation(
        "The last action made things worse and was undone.", "See status.actions before approving it again."
    ),
    Reason.KILL_SWITCH: Explanation(
        "The operator's kill switch is on: nothing is written into users' objects.",
        'Set the key paused of the ConfigMap that the message names to "false" when acting is wanted again.',
    ),
    Reason.KILL_SWITCH_UNREADABLE: Explanation(
        "The ConfigMap of the kill switch cannot be read, so nothing is written into users' objects.",
        "Let the operator's ServiceAccount get that ConfigMap; the chart's Role does.",
    ),
    Reason.INVALID_DATA: Explanation(
        "What is known of nodes and pods cannot be so; nothing is proposed about what it concerns.",
        "Correct what the message names; what was torn for a moment passes by itself.",
    ),
    Reason.GPU_UNHEALTHY: Explanation(
        "A GPU is not well: its driver asks for a recovery, reported an Xid that ends work, or shows it no longer.",
        "Cordon the node, move its pods, and do what the driver asks for (nvidia-smi --gpu-reset, a reboot, a repair).",
    ),
    Reason.POOL_OVER_LIMIT: Explanation(
        "A pool has more GPUs than its maxGpus allows; nothing is done about it.",
        "Remove nodes (status.consolidation names those that can go), or raise maxGpus of the pool.",
    ),
    Reason.POOL_OVER_BUDGET: Explanation(
        "A pool costs more a month than its monthlyBudget allows; nothing is done about it.",
        "Remove nodes (status.consolidation names those that can go), or raise monthlyBudget of the pool.",
    ),
    Reason.POOL_OVER_GPU_BUDGET: Explanation(
        "The objects of a pool hold more GPUs than its gpuBudget; none of them may grow, and nothing is taken away.",
        "Lower minimums or replicas of the objects that matter least, or raise gpuBudget of the pool.",
    ),
    Reason.POOL_SHORT: Explanation(
        "The objects of a pool want more GPUs than its gpuBudget; they are shared by priority, then fairly.",
        "Raise gpuBudget of the pool if the ones that wait should have more.",
    ),
    Reason.PRICE_MISSING: Explanation(
        "Nobody says what something costs, so what it costs and saves is not told in money.",
        "Set prices of its pool, add a row to the table of node prices, or name OpenCost in the chart's values.",
    ),
    Reason.PRICE_INVALID: Explanation(
        "A price cannot be: it is zero, below zero, too large, or less than its parts.",
        "Correct it where the message says; until then nothing is told in money that rests on it.",
    ),
    Reason.CURRENCY_MISMATCH: Explanation(
        "A price is in another currency than the object's; nothing is converted.",
        "Give the price in the object's currency, or set spec.currency.",
    ),
    Reason.PRICES_UNREADABLE: Explanation(
        "A configured source of prices cannot be read; no other source takes its place.",
        "Correct what the message names, or take the source out of the chart's values.",
    ),
}
"""The sentence and the remedy of every reason."""
