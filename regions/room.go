package regions

import (
	"context"
	"os"
	"path/filepath"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
)

// etcd ends itself at the first write that finds no room on the disk. So the embedded
// one never comes to that: what its database may need soon is taken from the disk
// beforehand, and when the disk is nearly full it raises the alarm that etcd knows for
// its own quota: reads, watches and renewals of leases go on, changes are refused. It
// ends the alarm when there is room again, which takes nobody's help.
const (
	// roomMin is what etcd takes at once when it begins another file of its log.
	roomMin = 64 << 20
	// reserve beyond the database's end is for what is written between two looks, and
	// under the alarm: renewals, ends of leases, compactions. bbolt grows in steps of 16 MiB.
	reserve  = 16 << 20
	roomLook = 500 * time.Millisecond
	alarmMax = 2 * time.Second
)

// room keeps an eye on the disk of an embedded etcd.
type room struct {
	etcd *Etcd
	dir  string
	free func(dir string) (uint64, error)
	size int64 // of the database, when the reserve was last taken
}

// keep looks until the server stops.
func (r *room) keep() {
	t := time.NewTicker(roomLook)
	defer t.Stop()
	for {
		r.look()
		select {
		case <-t.C:
		case <-r.etcd.server.Server.StopNotify():
			return
		}
	}
}

func (r *room) look() {
	free, err := r.free(r.dir)
	if err != nil {
		return // a file system that can't tell is taken to have room
	}
	full := free < roomMin
	if !full {
		r.takeReserve()
	}
	own := r.etcd.server.Server.Backend().Size() >= etcdQuota
	if on := r.alarm(); on == full || (on && own) {
		return
	}
	if r.setAlarm(full) != nil {
		return // the next look tries again
	}
	if full {
		r.etcd.log.Error("the disk is nearly full: the embedded etcd takes no changes until space is freed", "free_bytes", free)
	} else {
		r.etcd.log.Warn("the disk has room again: the embedded etcd takes changes")
	}
}

// takeReserve has the disk keep blocks for the database up to beyond its end. Those of
// a hole in it count, too.
func (r *room) takeReserve() {
	f, err := os.OpenFile(filepath.Join(r.dir, "member", "snap", "db"), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }() // nothing was written
	st, err := f.Stat()
	if err != nil || st.Size() <= r.size {
		return
	}
	if fileutil.Preallocate(f, st.Size()+reserve, false) == nil {
		r.size = st.Size()
	}
}

func (r *room) alarm() bool {
	for _, a := range r.etcd.server.Server.Alarms() {
		if a.Alarm == pb.AlarmType_NOSPACE {
			return true
		}
	}
	return false
}

func (r *room) setAlarm(on bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), alarmMax)
	defer cancel()
	s := r.etcd.server.Server
	req := &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: uint64(s.MemberID()), Alarm: pb.AlarmType_NOSPACE}
	if on {
		req.Action = pb.AlarmRequest_ACTIVATE
	}
	_, err := s.Alarm(ctx, req)
	return err
}
