-- ARGV: token.
if not record or record.token ~= ARGV[1] then
  return {'lost'}
elseif record.answer then
  return {'already', record.answer}
end
redis.call('DEL', KEYS[1])
return {'taken'}
