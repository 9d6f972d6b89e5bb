package kafka

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"parley/internal/detour"
	"parley/internal/problem"
)

// Config says where the brokers are and how topics are kept. Default has all but
// the brokers.
type Config struct {
	// Brokers are host:port of some of the cluster's brokers: the others are learned
	// from them. One is enough while it is up; name three.
	Brokers []string `yaml:"brokers"`
	// Prefix begins the names of topics and groups: 1 to 200 of a-z, A-Z, 0-9, ".",
	// "_" and "-". Two cells on one cluster need two. Another one later is an empty log.
	Prefix string `yaml:"prefix"`
	// Replication is how many brokers keep each partition: 1 to 9. From 3 on a write
	// is on two of them before it counts (min.insync.replicas 2), so that one may
	// die; with 1 or 2 a broker that is away stops the partition or, dead, loses it.
	Replication int `yaml:"replication"`
	// AppendMax bounds one append with all its repeats: 1 s to 1 min. Less fails
	// where a new leader was about to be found (measured: up to 10 s after a kill), more makes the caller wait.
	AppendMax time.Duration `yaml:"append_max"`
	// SessionMax is after how long without a sign of life a group's member is taken
	// for dead, and its partitions are given to others: 6 s to 5 min. Less moves them
	// in vain when a process stands still, more leaves them unattended.
	SessionMax time.Duration `yaml:"session_max"`

	// Username, if set, signs in by SCRAM with the password in PasswordFile (its
	// trailing line end does not count). Mechanism is scram-sha-512 or scram-sha-256.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	Mechanism    string `yaml:"mechanism"`
	// CAFile, if set, speaks TLS and trusts the certificates in this PEM file.
	// CertFile and KeyFile are this side's own, where brokers ask for one.
	CAFile   string `yaml:"ca_file"`
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// Via leads to brokers by other addresses than they go by; set by the stores'
	// config.
	Via detour.Map `yaml:"-"`
}

const (
	mechanism512 = "scram-sha-512"
	mechanism256 = "scram-sha-256"
)

// Default is a config for production, without brokers.
func Default() Config {
	return Config{
		Prefix: "parley", Replication: 3, AppendMax: 15 * time.Second, SessionMax: 10 * time.Second,
		Mechanism: mechanism512,
	}
}

// Validate lists every fault at once.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, field, fault string) {
		if !ok {
			errs = append(errs, problem.Field("kafka."+field, "%s", fault))
		}
	}
	check(len(c.Brokers) > 0, "brokers", "must name at least one host:port")
	for _, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		check(err == nil && host != "" && port != "", "brokers", fmt.Sprintf("%q is not host:port", b))
	}
	check(regexp.MustCompile(`^[a-zA-Z0-9._-]{1,200}$`).MatchString(c.Prefix), "prefix", `must be 1 to 200 of a-z, A-Z, 0-9, ".", "_" and "-"`)
	check(c.Replication >= 1 && c.Replication <= 9, "replication", "must be 1 to 9")
	check(c.AppendMax >= time.Second && c.AppendMax <= time.Minute, "append_max", "must be 1 s to 1 min")
	check(c.SessionMax >= 6*time.Second && c.SessionMax <= 5*time.Minute, "session_max", "must be 6 s to 5 min")
	check((c.Username == "") == (c.PasswordFile == ""), "username", "and password_file go together")
	check(c.Username == "" || c.Mechanism == mechanism512 || c.Mechanism == mechanism256, "mechanism", "must be scram-sha-512 or scram-sha-256")
	check((c.CertFile == "") == (c.KeyFile == ""), "cert_file", "and key_file go together")
	check(c.CertFile == "" || c.CAFile != "", "cert_file", "needs ca_file: without it nothing speaks TLS")
	return errors.Join(errs...)
}

// inSync is how many brokers must have a write before it counts.
func (c Config) inSync() int {
	if c.Replication >= 3 {
		return 2
	}
	return 1
}

func (c Config) changesTopic() string   { return c.Prefix + ".changes" }
func (c Config) readStateTopic() string { return c.Prefix + ".readstate" }

// addresses names the cluster in errors.
func (c Config) addresses() string { return strings.Join(c.Brokers, ", ") }
