-- ARGV: token.
if not record or record.token ~= ARGV[1] then
  return {'lost'}
elseif record.answer then
  return {'already', record.answer}
end
if record.run == 1 then
  redis.call('DEL', KEYS[1])
else
  -- An earlier run may have had an effect, so the record stays. Nobody has this token.
  redis.call('HSET', KEYS[1], 'token', string.rep('\0', 16), 'lease_until', plain(now))
end
return {'taken'}
