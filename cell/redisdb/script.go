package redisdb

import (
	"crypto/sha1" //nolint:gosec // Redis names scripts so
	"encoding/hex"
	"strings"

	"github.com/redis/go-redis/v9"
)

// readScript does all that read state does in a bucket. Its first line names the
// generation: the time from one filling of a server's memory to its loss. A server
// that restarts, or another one that takes over, does not know the script; a server
// that was emptied has no gate (KEYS[1]). So no command is answered from memory
// that has lost something, without a look at anything else (see gate.go).
//
// ARGV[1] is what the gate must say, ARGV[2] what is to be done.
//
//nolint:dupword // it is Lua
const readScript = `
local gate = redis.call('GET', KEYS[1])
if gate ~= ARGV[1] then return redis.error_reply('STALE gate') end
local op, i = ARGV[2], 3
if op == 'put' then -- per key: channel, mark; the higher one stays; answers number and mark of those that stayed
  local call, sub, keys, argv, out, n = redis.call, string.sub, KEYS, ARGV, {}, 0
  for k = 2, #keys do
    local channel, mark = argv[i], argv[i+1]
    local old = call('HGET', keys[k], channel)
    if old and old >= sub(mark, 1, 32) then -- what follows the digits in old only makes it longer
      out[n+1], out[n+2] = k - 2, old
      n = n + 2
    else
      call('HSET', keys[k], channel, mark)
    end
    i = i + 2
  end
  return out
elseif op == 'marks' then
  return redis.call('HGETALL', KEYS[2])
elseif op == 'add' then -- per key: row, length of its channel's part, how many rows are kept
  for k = 2, #KEYS do
    if redis.call('ZADD', KEYS[k], 0, ARGV[i]) == 1 then
      local of = string.sub(ARGV[i], 1, tonumber(ARGV[i+1]))
      local low, high = '[' .. of, '(' .. of .. '\255'
      local over = redis.call('ZLEXCOUNT', KEYS[k], low, high) - ARGV[i+2]
      if over > 0 then
        for _, row in ipairs(redis.call('ZRANGEBYLEX', KEYS[k], low, high, 'LIMIT', 0, over)) do
          redis.call('ZREM', KEYS[k], row)
        end
      end
    end
    i = i + 3
  end
  return 1
elseif op == 'count' then -- reader, limit; per key: first row, length of its channel's part; answers the revs
  local reader, limit, out = ARGV[3], tonumber(ARGV[4]), {}
  i = 5
  for k = 2, #KEYS do
    local n = tonumber(ARGV[i+1])
    local low, high = '[' .. ARGV[i], '(' .. string.sub(ARGV[i], 1, n) .. '\255'
    local revs, rows = {}, nil
    repeat
      rows = redis.call('ZRANGEBYLEX', KEYS[k], low, high, 'LIMIT', 0, 500)
      for _, row in ipairs(rows) do
        if #revs < limit and string.sub(row, n + 17) ~= reader then
          revs[#revs+1] = string.sub(row, n + 9, n + 16)
        end
        low = '(' .. row
      end
    until #rows < 500 or #revs >= limit
    out[k-1] = table.concat(revs)
    i = i + 2
  end
  return out
elseif op == 'open' then
  redis.call('SET', KEYS[1], ARGV[3])
end
return 1`

// The operations.
const (
	opPut   = "put"
	opMarks = "marks"
	opAdd   = "add"
	opCount = "count"
	opOpen  = "open"
	opCheck = "check"
)

// generation is one filling of read state.
type generation struct {
	name string
	sha  string // of its script
}

func newGeneration(name string) *generation {
	return &generation{name: name, sha: shaOf(scriptOf(name))}
}

func shaOf(script string) string {
	sum := sha1.Sum([]byte(script)) //nolint:gosec // Redis names scripts so
	return hex.EncodeToString(sum[:])
}

func scriptOf(generation string) string { return "-- " + generation + readScript }

// What a gate says.
const (
	gateOpen = "open:"
	gateFill = "fill:"
)

// isLost reports whether a command was refused because its generation is over.
func isLost(err error) bool {
	return err != nil && (redis.HasErrorPrefix(err, "NOSCRIPT") || redis.HasErrorPrefix(err, "STALE"))
}

// openGeneration is the name of the generation that a gate is open for, "" if it is not.
func openGeneration(gate string) string {
	name, ok := strings.CutPrefix(gate, gateOpen)
	if !ok {
		return ""
	}
	return name
}
