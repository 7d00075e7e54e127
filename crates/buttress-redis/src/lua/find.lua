-- ARGV: the largest number of bytes of the response to return; -1 for all.
if not record then
  return {'missing'}
end
local expires_at = redis.call('PEXPIRETIME', KEYS[1])
local expires_in = math.max(expires_at * 1000 - now, 0)
if expires_at < 0 then
  -- Somebody has called PERSIST: report fifty years.
  expires_in = 1576800000000000
end
local age = math.max(now - (record.begun_at or now), 0)
local state, detail
if record.answer then
  state, detail = 'done', string.sub(record.answer, 1, tonumber(ARGV[1]))
elseif now >= record.lease_until then
  state, detail = 'stopped', now - record.lease_until
else
  state, detail = 'running', record.lease_until - now
end
return {'found', {record.token, record.run, age, expires_in, state, detail}}
