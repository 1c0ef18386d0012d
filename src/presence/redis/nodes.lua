-- Lists the nodes that live.
--
-- KEYS  none
-- ARGV  none
--
-- Returns a flat list: lease, value, lease, value, …

local nodes = {}
for _, lease in ipairs(redis.call('HKEYS', 'stentor:nodes')) do
  local node = redis.call('GET', 'stentor:node:' .. lease)
  if node then
    nodes[#nodes + 1] = lease
    nodes[#nodes + 1] = node
  end
end
return nodes
