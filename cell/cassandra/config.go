package cassandra

import (
	"errors"
	"net"
	"regexp"
	"strconv"
	"time"

	"parley/internal/detour"
	"parley/internal/problem"
)

// Config says where a cell's message store is and what must hold there.
type Config struct {
	// Hosts are some of the cluster's nodes as host:port, 1 to 64; the others are
	// found through them. One is enough while it is up: name as many as the
	// datacenter has racks.
	Hosts []string `yaml:"hosts" doc:"nodes of the Cassandra cluster: host:port, comma-separated"`
	// Keyspace holds the cell's tables; made if it is not there. 1 to 48 lower-case
	// letters, digits and _.
	Keyspace string `yaml:"keyspace" doc:"keyspace of the cell's message store"`
	// Datacenter is the one the keyspace lies in, as nodetool status names it. A cell
	// lies in one: a copy elsewhere would be asked in every quorum.
	Datacenter string `yaml:"datacenter" doc:"Cassandra's name of the datacenter that the cell is in"`
	// Replication is how many copies there are of each row, 1 to 7. With 3, one node
	// may be away; with 1 or 2, none; more cost a write each.
	Replication int `yaml:"replication" doc:"copies of each row; 3 survives a node's loss"`
	// Username logs in with the password in PasswordFile; both or neither.
	Username     string `yaml:"username" doc:"Cassandra user, if the cluster asks for one"`
	PasswordFile string `yaml:"password_file" doc:"file with the user's password"`
	// CAFile holds the PEM certificates of who signs the nodes'; none = no TLS.
	// CertFile and KeyFile are shown to nodes that ask for a client's.
	CAFile   string `yaml:"ca_file" doc:"PEM certificates that sign the nodes': turns TLS on"`
	CertFile string `yaml:"cert_file" doc:"PEM certificate to show to the nodes"`
	KeyFile  string `yaml:"key_file" doc:"PEM key of cert_file"`
	// AttemptTimeout is how long one node may take to answer one attempt, 100 ms to
	// 30 s. Less gives up on a node that collects garbage, more keeps a post waiting
	// for one that hangs.
	AttemptTimeout time.Duration `yaml:"attempt_timeout" doc:"how long a node may take to answer one attempt"`
	// Connections to each node, 1 to 16. Each carries 32,768 requests at a time, so
	// more only help when one core can't read what comes.
	Connections int `yaml:"connections" doc:"connections to each node"`
	// AllowPeriodicCommitlog takes nodes that answer before they have synced: a
	// node that is killed then loses what it acknowledged in the last seconds, and a
	// power cut takes it from all of them.
	AllowPeriodicCommitlog bool `yaml:"allow_periodic_commitlog" doc:"accept that killed nodes lose what they acknowledged"`
	// Via leads to nodes by other addresses than they go by; set by the stores' config.
	Via detour.Map `yaml:"-"`
}

// Default is a config that lacks hosts and datacenter only.
func Default() Config {
	return Config{Keyspace: "parley", Replication: 3, AttemptTimeout: 2 * time.Second, Connections: 2}
}

const (
	hostsMax          = 64
	replicationMax    = 7
	connectionsMax    = 16
	attemptTimeoutMin = 100 * time.Millisecond
	attemptTimeoutMax = 30 * time.Second
)

// Validate lists all that is wrong with the config itself.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, field, format string, args ...any) {
		if bad {
			faults = append(faults, problem.Field(field, format, args...))
		}
	}
	fault(len(c.Hosts) == 0 || len(c.Hosts) > hostsMax, "hosts", "must name 1 to %d nodes, not %d", hostsMax, len(c.Hosts))
	for _, h := range c.Hosts {
		host, port, err := net.SplitHostPort(h)
		n, portErr := strconv.ParseUint(port, 10, 16)
		fault(err != nil || host == "" || portErr != nil || n == 0, "hosts", "%q is no host:port", h)
		fault(c.Via[h] != "" && net.ParseIP(host) == nil, "hosts", "%q leads elsewhere by stores.via, which finds nodes by their IP addresses: name it so in both", h)
	}
	fault(!keyspaceName(c.Keyspace), "keyspace", "must be 1 to 48 lower-case letters, digits and _, a letter first; not %q", c.Keyspace)
	fault(c.Datacenter == "", "datacenter", "must name the cluster's datacenter that the cell is in, as nodetool status shows it")
	fault(c.Replication < 1 || c.Replication > replicationMax, "replication", "must be 1 to %d, not %d", replicationMax, c.Replication)
	fault((c.Username == "") != (c.PasswordFile == ""), "password_file", "username and password_file go together")
	fault((c.CertFile == "") != (c.KeyFile == ""), "cert_file", "cert_file and key_file go together")
	fault(c.CertFile != "" && c.CAFile == "", "ca_file", "a cert_file is of use with TLS only: name the ca_file, too")
	fault(c.AttemptTimeout < attemptTimeoutMin || c.AttemptTimeout > attemptTimeoutMax, "attempt_timeout",
		"must be %v to %v, not %v", attemptTimeoutMin, attemptTimeoutMax, c.AttemptTimeout)
	fault(c.Connections < 1 || c.Connections > connectionsMax, "connections", "must be 1 to %d, not %d", connectionsMax, c.Connections)
	return errors.Join(faults...)
}

// keyspaceName says whether a name needs no quotes: it goes into statements.
func keyspaceName(s string) bool { return regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`).MatchString(s) }
