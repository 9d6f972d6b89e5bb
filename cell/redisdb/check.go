package redisdb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"parley/internal/problem"
)

// versionMin has sharded pub-sub, and forgets scripts when it restarts.
const versionMin = 7

// Check connects to the servers of a config, changes nothing, and says all that
// is wrong: the address, what, and how to mend it.
func Check(ctx context.Context, cfg Config) error {
	a, err := cfg.access()
	if err != nil {
		return err
	}
	_, _, err = a.check(ctx)
	return err
}

// check finds the mode and the nodes, and looks at each of them.
func (a access) check(ctx context.Context) (string, *layout, error) {
	mode, err := a.findMode(ctx)
	if err != nil {
		return "", nil, err
	}
	l, err := a.findLayout(ctx, mode, nil)
	if err != nil {
		return "", nil, a.explain(strings.Join(a.Addrs, ", "), err)
	}
	var faults []error
	if mode == modeCluster {
		faults = append(faults, l.checkSlots(a.Addrs))
	}
	for _, addr := range l.nodes {
		faults = append(faults, a.checkNode(ctx, mode, addr))
	}
	if err := errors.Join(faults...); err != nil {
		return "", nil, err
	}
	return mode, l, a.checkRights(ctx, mode)
}

// checkRights does what we may have to do with keys and topics, by a name that
// nothing has: what is taken away was not there, and nobody hears what is said.
func (a access) checkRights(ctx context.Context, mode string) error {
	ctx, cancel := context.WithTimeout(ctx, dialMax+answerMax)
	defer cancel()
	c := a.client(mode)
	defer c.Close() //nolint:errcheck // a connection for two questions
	name := "{" + a.KeyPrefix + ":check}"
	err := c.Eval(ctx, `return redis.call('DEL', KEYS[1])`, []string{name}).Err()
	if err == nil {
		err = c.SPublish(ctx, name, "").Err()
	}
	if err != nil && redis.IsPermissionError(err) { // all else, such as no memory left, is no reason not to start
		return a.explain(strings.Join(a.Addrs, ", "), err)
	}
	return nil
}

func (l *layout) checkSlots(addrs []string) error {
	missing := 0
	for _, n := range l.slots {
		if n == "" {
			missing++
		}
	}
	if missing == 0 {
		return nil
	}
	return problem.New(problem.Unavailable,
		"redis cluster %s: %d of %d hash slots belong to no node; repair it with redis-cli --cluster fix", strings.Join(addrs, ", "), missing, slotCount)
}

// findMode asks the first server that answers what it is.
func (a access) findMode(ctx context.Context) (string, error) {
	if a.Mode != modeAuto {
		return a.Mode, nil
	}
	var faults []error
	for _, addr := range a.Addrs {
		in, err := a.info(ctx, addr)
		if err != nil {
			faults = append(faults, a.explain(addr, err))
			continue
		}
		switch in["redis_mode"] {
		case "cluster":
			return modeCluster, nil
		case "sentinel":
			if a.MasterName == "" {
				return "", problem.Field("redis.master_name", "must name the primary: %s is a sentinel", addr)
			}
			return modeSentinel, nil
		default:
			if len(a.Addrs) > 1 {
				return "", problem.Field("redis.addrs", "%s is a single server: name only that one", addr)
			}
			return modeSingle, nil
		}
	}
	return "", errors.Join(faults...)
}

// info is what a server says of itself. It may be a sentinel, which has no such
// user.
func (a access) info(ctx context.Context, addr string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, dialMax+answerMax)
	defer cancel()
	c := redis.NewClient(a.options(addr))
	defer c.Close() //nolint:errcheck // a connection for one question
	text, err := c.Info(ctx).Result()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			out[k] = v
		}
	}
	return out, nil
}

func (a access) checkNode(ctx context.Context, mode, addr string) error {
	in, err := a.info(ctx, addr)
	if err != nil {
		return a.explain(addr, err)
	}
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, problem.New(problem.Unsupported, "redis %s: "+format, append([]any{addr}, args...)...))
	}
	if in["redis_version"] == "" {
		fault("it answers, but not like Redis: is this the port of something else?")
		return errors.Join(faults...)
	}
	major, _, _ := strings.Cut(in["redis_version"], ".")
	if n, err := strconv.Atoi(major); err != nil || n < versionMin {
		fault("version %s is too old: sharded pub-sub needs %d or later", in["redis_version"], versionMin)
	}
	if p := in["maxmemory_policy"]; p != "" && p != "noeviction" {
		fault("maxmemory-policy %s lets read state vanish silently: set it to noeviction", p)
	}
	if in["role"] == "slave" {
		fault("it is a read-only replica of %s:%s: name the primary, or the sentinels with mode sentinel", in["master_host"], in["master_port"])
	}
	if in["loading"] == "1" {
		fault("it is still loading its data: wait, then start again")
	}
	isCluster := in["redis_mode"] == "cluster"
	if isCluster != (mode == modeCluster) {
		fault("it runs in mode %s, the config says %s: mend redis.mode", in["redis_mode"], mode)
	}
	if isCluster && mode == modeCluster {
		faults = append(faults, a.checkCluster(ctx, addr))
	}
	return errors.Join(faults...)
}

func (a access) checkCluster(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, dialMax+answerMax)
	defer cancel()
	c := redis.NewClient(a.options(addr))
	defer c.Close() //nolint:errcheck // a connection for one question
	text, err := c.ClusterInfo(ctx).Result()
	if err != nil {
		return a.explain(addr, err)
	}
	if !strings.Contains(text, "cluster_state:ok") {
		return problem.New(problem.Unavailable, "redis %s: the cluster is not in order (cluster_state is not ok): see redis-cli --cluster check", addr)
	}
	return nil
}

// explain says in an operator's words why a server can't be used.
func (a access) explain(addr string, err error) error {
	if p, ok := errors.AsType[*problem.Error](err); ok && p.Cause == nil {
		return err
	}
	user := a.Username
	if user == "" {
		user = "default"
	}
	answered, isAnswer := errors.AsType[redis.Error](err)
	var cert *tls.CertificateVerificationError
	switch text := err.Error(); {
	case errors.As(err, &cert):
		return problem.Wrap(err, problem.Invalid, "redis %s: its certificate is not trusted (%v): mend redis.ca_file, or the server's certificate", addr, cert.Err)
	case errors.As(err, new(tls.RecordHeaderError)):
		return problem.Wrap(err, problem.Invalid, "redis %s: it does not speak TLS: leave redis.ca_file out, or name its tls-port", addr)
	case strings.Contains(text, "remote error: tls:"):
		return problem.Wrap(err, problem.Invalid, "redis %s: it refuses TLS with us (%v): mend redis.cert_file and key_file", addr, err)
	case !isAnswer && strings.Contains(text, "redis: can't parse"), strings.Contains(text, "invalid reply"):
		return problem.Wrap(err, problem.Unsupported, "redis %s: what answers there is not Redis: mend redis.addrs", addr)
	case isAnswer && (redis.HasErrorPrefix(answered, "WRONGPASS") || redis.HasErrorPrefix(answered, "NOAUTH") || strings.Contains(text, "AUTH")):
		return problem.Wrap(err, problem.Denied, "redis %s: user %s is refused (%v): mend redis.username and password_file", addr, user, answered)
	case isAnswer && redis.HasErrorPrefix(answered, "NOPERM"):
		return problem.Wrap(err, problem.Denied, "redis %s: user %s may not do what is needed (%v): give it +@all, ~{%s:* and &{%s:*", addr, user, answered, a.KeyPrefix, a.KeyPrefix)
	case isAnswer:
		return problem.Wrap(err, problem.Unavailable, "redis %s: it refuses: %v", addr, answered)
	case errors.Is(err, io.EOF), strings.Contains(text, "connection reset"):
		return problem.Wrap(err, problem.Unavailable, "redis %s: it hangs up on the first command: set redis.ca_file if it asks for TLS, or mend redis.addrs if it is no Redis", addr)
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Wrap(err, problem.Unavailable, "redis %s: no answer in time: is it Redis, with TLS as redis.ca_file says, and not paused?", addr)
	default:
		return problem.Wrap(err, problem.Unavailable, "%s", fmt.Sprintf("redis %s: it can't be reached (%v): start it or mend redis.addrs", addr, err))
	}
}
