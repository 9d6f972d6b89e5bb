package redisdb

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"parley/internal/credential"
	"parley/internal/detour"
	"parley/internal/problem"
)

// Config says which Redis a cell uses. Zero fields take the defaults in brackets.
type Config struct {
	// Addrs are host:port of the server, of some nodes of a cluster, or of the
	// sentinels. Each is tried in turn; with one address the cell can't start while
	// that node is away.
	Addrs []string `yaml:"addrs"`
	// Mode is auto, single, cluster or sentinel [auto: the first that answers says it].
	Mode string `yaml:"mode"`
	// MasterName is what the sentinels call the primary; mode sentinel only.
	MasterName string `yaml:"master_name"`
	// Username and PasswordFile are the ACL user's ["" = the default user, without].
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	// SentinelPasswordFile is the sentinels' own ["" = they ask for none].
	SentinelPasswordFile string `yaml:"sentinel_password_file"`
	// CAFile turns TLS on and says whom to trust; CertFile and KeyFile are ours, if
	// the server asks for them.
	CAFile   string `yaml:"ca_file"`
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// KeyPrefix starts the names of all keys and topics, 1 to 64 of a-z, 0-9, "-", "_",
	// ".", ":". Cells that share a Redis must have different ones: with the same they
	// would hear each other and share their users' marks.
	KeyPrefix string `yaml:"key_prefix"`
	// QueueMax bounds the messages that wait for one receiver, and those that wait to
	// be published per node, 64 to 1,000,000 [16,384]. Less drops sooner, which
	// costs a repair; more costs memory, a few KB each.
	QueueMax int `yaml:"queue_max"`
	// PendingMax bounds the marks that wait for the journal to come back, 1,000 to
	// 10,000,000 [262,144: some 60 MB]; beyond it marks are refused.
	PendingMax int `yaml:"pending_max"`
	// Via leads to servers and sentinels by other addresses than they go by; set by
	// the stores' config.
	Via detour.Map `yaml:"-"`
}

// The modes.
const (
	modeAuto     = "auto"
	modeSingle   = "single"
	modeCluster  = "cluster"
	modeSentinel = "sentinel"
)

// Waits. A server that is slow by half a second still works; one that is silent
// for two is away.
const (
	dialMax    = time.Second
	answerMax  = 2 * time.Second
	prefixMax  = 64
	queueLow   = 64
	queueHigh  = 1_000_000
	pendingLow = 1_000
	pendingTop = 10_000_000
)

func (c Config) withDefaults() Config {
	if c.Mode == "" {
		c.Mode = modeAuto
	}
	if c.QueueMax == 0 {
		c.QueueMax = 16 << 10
	}
	if c.PendingMax == 0 {
		c.PendingMax = 256 << 10
	}
	return c
}

// Validate lists everything that is wrong with the fields.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	check := func(ok bool, field, format string, args ...any) {
		if !ok {
			faults = append(faults, problem.Field("redis."+field, format, args...))
		}
	}
	check(len(c.Addrs) > 0, "addrs", "must name a server as host:port")
	for _, a := range c.Addrs {
		host, port, err := net.SplitHostPort(a)
		check(err == nil && host != "" && port != "", "addrs", "%q is not host:port", a)
	}
	switch c.Mode {
	case modeAuto, modeCluster:
	case modeSingle:
		check(len(c.Addrs) <= 1, "addrs", "mode single has one server, not %d; name the mode cluster or sentinel", len(c.Addrs))
	case modeSentinel:
		check(c.MasterName != "", "master_name", "must be what the sentinels call the primary")
	default:
		check(false, "mode", "%q is none of auto, single, cluster, sentinel", c.Mode)
	}
	check(validPrefix(c.KeyPrefix), "key_prefix", "must be 1 to %d of a-z, 0-9 and -_.: such as the cell's name", prefixMax)
	check(c.CAFile != "" || (c.CertFile == "" && c.KeyFile == ""), "ca_file", "must be named, too, when cert_file is: it turns TLS on")
	check((c.CertFile == "") == (c.KeyFile == ""), "cert_file", "and key_file go together")
	check(c.Username == "" || c.PasswordFile != "", "password_file", "must be named for user %q", c.Username)
	check(c.QueueMax >= queueLow && c.QueueMax <= queueHigh, "queue_max", "must be %d to %d, not %d", queueLow, queueHigh, c.QueueMax)
	check(c.PendingMax >= pendingLow && c.PendingMax <= pendingTop, "pending_max", "must be %d to %d, not %d", pendingLow, pendingTop, c.PendingMax)
	return errors.Join(faults...)
}

func validPrefix(p string) bool {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.:", r)
	}
	return p != "" && len(p) <= prefixMax && strings.IndexFunc(p, func(r rune) bool { return !ok(r) }) < 0
}

// access is how connections are made: what the files hold that the config names.
type access struct {
	Config
	password string
	sentinel string // the sentinels' password
	dialer   *detour.Dialer
}

func (c Config) access() (access, error) {
	quiet()
	c = c.withDefaults()
	if err := c.Validate(); err != nil {
		return access{}, err
	}
	a := access{Config: c}
	var faults []error
	secret := func(field, file string) string {
		s, err := credential.Secret(field, file)
		faults = append(faults, err)
		return s
	}
	a.password = secret("password_file", c.PasswordFile)
	a.sentinel = secret("sentinel_password_file", c.SentinelPasswordFile)
	a.dialer = &detour.Dialer{Via: c.Via, Net: net.Dialer{Timeout: dialMax}}
	if c.CAFile != "" {
		var err error
		a.dialer.TLS, err = credential.Files{CA: c.CAFile, Cert: c.CertFile, Key: c.KeyFile}.TLS()
		faults = append(faults, err)
	}
	return a, errors.Join(faults...)
}

// options are for a connection to one node.
func (a access) options(addr string) *redis.Options {
	return &redis.Options{
		Addr: addr, Username: a.Username, Password: a.password, Dialer: a.dialer.DialContext,
		Protocol: 2, DisableIdentity: true, ContextTimeoutEnabled: true,
		DialTimeout: dialMax, ReadTimeout: answerMax, WriteTimeout: answerMax, PoolTimeout: answerMax,
		DialerRetries: 1, MaxRetries: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// client is for commands by key, to any node that has it.
//
//nolint:ireturn // three kinds of Redis, one way to use them
func (a access) client(mode string) redis.UniversalClient {
	o := a.options("")
	if mode == modeSentinel {
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: a.MasterName, SentinelAddrs: a.Addrs,
			Username: a.Username, Password: a.password, Dialer: a.dialer.DialContext, SentinelPassword: a.sentinel,
			Protocol: o.Protocol, DisableIdentity: true, ContextTimeoutEnabled: true,
			DialTimeout: dialMax, ReadTimeout: answerMax, WriteTimeout: answerMax, PoolTimeout: answerMax,
			DialerRetries: 1, MaxRetries: -1,
		})
	}
	if mode == modeCluster {
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: a.Addrs, Username: a.Username, Password: a.password, Dialer: a.dialer.DialContext,
			Protocol: o.Protocol, DisableIdentity: true, ContextTimeoutEnabled: true,
			DialTimeout: dialMax, ReadTimeout: answerMax, WriteTimeout: answerMax, PoolTimeout: answerMax,
			DialerRetries: 1, MaxRetries: -1, MaxRedirects: redirectsMax, MaintNotificationsConfig: o.MaintNotificationsConfig,
		})
	}
	return redis.NewClient(a.options(a.Addrs[0]))
}

// redirectsMax is for slots that move while a command is on its way.
const redirectsMax = 3

// quiet ends the client library's own log, one for the whole process, on stderr:
// what it says there it also returns, and we log that.
//
//nolint:gochecknoglobals // so is the library's logger
var quiet = sync.OnceFunc(func() { redis.SetLogger(silence{}) })

type silence struct{}

// Printf takes a line of the library's.
func (silence) Printf(context.Context, string, ...any) {}
