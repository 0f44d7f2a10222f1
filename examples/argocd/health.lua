-- Health of ResourceOptimization and ClusterResourceOptimization for Argo CD, by the rules of kstatus.
-- Degraded is left to the message: an agent that is away must not turn an application red.
local health = {}
if obj.spec ~= nil and obj.spec.suspend == true then
  health.status = "Suspended"
  health.message = "spec.suspend is true"
  return health
end
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  health.status = "Progressing"
  health.message = "Waiting for the first round"
  return health
end
local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end
local function holds(name)
  return found[name] ~= nil and found[name].status == "True"
end
local function text(name)
  local condition = found[name]
  return condition.reason .. ": " .. (condition.message or "")
end
if holds("Reconciling") then
  health.status = "Progressing"
  health.message = text("Reconciling")
elseif holds("Stalled") then
  health.status = "Degraded"
  health.message = text("Stalled")
elseif holds("Ready") then
  health.status = "Healthy"
  health.message = holds("Degraded") and text("Degraded") or text("Ready")
elseif found["Ready"] ~= nil then
  health.status = "Progressing"
  health.message = text("Ready")
else
  health.status = "Progressing"
  health.message = "Waiting for the first round"
end
return health
