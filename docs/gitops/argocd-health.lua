-- The health of an AlignTuneJob for Argo CD, from the conditions that the operator keeps.
local health = {status = "Progressing", message = "Waiting for the operator."}
local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
if status.observedGeneration ~= obj.metadata.generation then
  health.message = "Waiting for the operator to see the newest spec."
  return health
end
local function holds(kind)
  for _, condition in ipairs(status.conditions) do
    if condition.type == kind and condition.status == "True" then
      health.message = condition.message
      return true
    end
  end
  return false
end
if holds("Stalled") then
  health.status = "Degraded"
elseif holds("Suspended") then
  health.status = "Suspended"
elseif holds("Reconciling") then
  health.status = "Progressing"
elseif holds("Complete") or holds("Running") then
  health.status = "Healthy"
end
return health
