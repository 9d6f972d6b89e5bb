package elastic

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"parley/internal/credential"
	"parley/internal/detour"
	"parley/internal/problem"
)

// Config says where Elasticsearch is, and how the indexes are to be.
type Config struct {
	// Addresses are the cluster's HTTP addresses, http://host:port or
	// https://host:port. One is enough; with more, a node may be away.
	Addresses []string `yaml:"addresses"`
	// Username and the file with its password, or the file of an API key; none of them
	// for a cluster without security. The privileges it takes: monitor and
	// manage_index_templates on the cluster, all on the indexes of Prefix.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	APIKeyFile   string `yaml:"api_key_file"`
	// CAFile is the authority to trust for https; empty = the system's. CertFile and
	// KeyFile are our own certificate, if the cluster asks for one.
	CAFile   string `yaml:"ca_file"`
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// Prefix begins the names of all our indexes, aliases and the template: one for each
	// cell. Two cells with the same would find each other's messages no more than
	// before, but a rebuild of the one would work on the other's documents, too.
	Prefix string `yaml:"prefix"`
	// Shards of each quarter's index: 1 to 64, default 1. A workspace lives in one of
	// them. Elastic advises 10 to 50 GB each, some 50 million messages; more than needed
	// cost memory. A change counts for the quarters that begin after it.
	Shards int `yaml:"shards"`
	// Replicas of each shard: 0 to 5, default 1. With 0 the loss of a node loses the index
	// until it is rebuilt.
	Replicas *int `yaml:"replicas"`
	// RequestMax bounds one request: 1 s to 2 min, default 20 s. Searches give up long
	// before; a shorter bound makes a slow cluster's bulks fail and be sent again.
	RequestMax time.Duration `yaml:"request_max"`
	// Via leads to nodes by other addresses than Addresses'; set by the stores' config.
	Via detour.Map `yaml:"-"`
}

const (
	prefixNormal  = "parley"
	shardsMost    = 64
	replicasMost  = 5
	requestNormal = 20 * time.Second
	requestMost   = 2 * time.Minute
	connsMax      = 16
	dialMax       = 3 * time.Second
	headerMax     = 30 * time.Second
	idleMax       = time.Minute
)

// names is what Elasticsearch takes as a name, and what can't be mixed up with the
// signs between the parts of an index's name.
var names = regexp.MustCompile(`^[a-z][a-z0-9_]{0,40}(-[a-z0-9_]{1,40}){0,4}$`)

func (c Config) defaults() Config {
	if c.Prefix == "" {
		c.Prefix = prefixNormal
	}
	if c.Shards == 0 {
		c.Shards = 1
	}
	if c.Replicas == nil {
		one := 1
		c.Replicas = &one
	}
	if c.RequestMax == 0 {
		c.RequestMax = requestNormal
	}
	return c
}

// Validate lists every fault at once. It looks at no file.
func (c Config) Validate() error {
	c = c.defaults()
	var faults []error
	bad := func(field, format string, args ...any) {
		faults = append(faults, problem.Field(field, format, args...))
	}
	if len(c.Addresses) == 0 {
		bad("addresses", "must name at least one, such as http://10.0.3.1:9200")
	}
	for _, a := range c.Addresses {
		u, err := url.Parse(a)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
			bad("addresses", "%q must be http://host:port or https://host:port, without a password in it", a)
		}
	}
	if (c.Username == "") != (c.PasswordFile == "") {
		bad("password_file", "username and password_file go together")
	}
	if c.APIKeyFile != "" && c.Username != "" {
		bad("api_key_file", "give either an API key or a user")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		bad("key_file", "cert_file and key_file go together")
	}
	if !names.MatchString(c.Prefix) {
		bad("prefix", "%q must be lower-case letters, digits, _ and -, and begin with a letter", c.Prefix)
	}
	if c.Shards < 1 || c.Shards > shardsMost {
		bad("shards", "must be 1 to %d, not %d", shardsMost, c.Shards)
	}
	if *c.Replicas < 0 || *c.Replicas > replicasMost {
		bad("replicas", "must be 0 to %d, not %d", replicasMost, *c.Replicas)
	}
	if c.RequestMax < time.Second || c.RequestMax > requestMost {
		bad("request_max", "must be 1 s to %s, not %s", requestMost, c.RequestMax)
	}
	return errors.Join(faults...)
}

// secrets are what the files hold.
type secrets struct {
	password, apiKey string
	tls              *tls.Config
	dialer           *detour.Dialer
}

func (c Config) secrets() (s secrets, err error) {
	var faults []error
	read := func(field, file string) string {
		text, err := credential.Secret(field, file)
		faults = append(faults, err)
		return text
	}
	s.password, s.apiKey = read("password_file", c.PasswordFile), read("api_key_file", c.APIKeyFile)
	s.dialer = &detour.Dialer{Via: c.Via, Net: net.Dialer{Timeout: dialMax}}
	s.tls, err = credential.Files{CA: c.CAFile, Cert: c.CertFile, Key: c.KeyFile}.TLS()
	faults = append(faults, err)
	return s, errors.Join(faults...)
}

func (s *secrets) transport() *http.Transport {
	return &http.Transport{
		DialContext: s.dialer.DialContext, TLSClientConfig: s.tls, TLSHandshakeTimeout: dialMax,
		MaxConnsPerHost: connsMax, MaxIdleConnsPerHost: connsMax, IdleConnTimeout: idleMax, ResponseHeaderTimeout: headerMax,
	}
}
