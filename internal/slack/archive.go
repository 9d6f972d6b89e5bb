package slack

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"parley/internal/jsontext"
	"parley/internal/problem"
)

// archive is the ZIP file: its files by their names, and which have been read.
type archive struct {
	files map[string]*zip.File
	read  map[string]bool
}

// newArchive refuses what is too much before anything is unpacked. size is the ZIP
// file's own: the sizes that the ZIP gives may be made up.
func newArchive(name string, z *zip.Reader, size int64) (archive, error) {
	if len(z.File) > filesMax {
		return archive{}, problem.New(problem.TooLarge, "%s holds %d files, at most %d are taken", name, len(z.File), filesMax)
	}
	a := archive{files: make(map[string]*zip.File, len(z.File)), read: map[string]bool{}}
	unpacked, growthMax := uint64(0), max(growthFree, growthTimes*uint64(max(size, 0)))
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		file := strings.TrimPrefix(path.Clean("/"+f.Name), "/")
		if _, ok := a.files[file]; ok {
			return archive{}, fault(file, 0, "is in the ZIP file twice")
		}
		a.files[file] = f
		if path.Ext(file) != ".json" {
			continue // never unpacked
		}
		if f.UncompressedSize64 > fileBytesMax {
			return archive{}, fault(file, 0, "has %d bytes, at most %d are taken", f.UncompressedSize64, fileBytesMax)
		}
		switch unpacked += f.UncompressedSize64; {
		case unpacked > unpackedMax:
			return archive{}, problem.New(problem.TooLarge, "%s: with %s in it, it unpacks to more than %d GiB: export fewer days at a time", name, printable(file), unpackedMax>>30)
		case unpacked > growthMax:
			return archive{}, problem.New(problem.TooLarge, "%s: with %s in it, it unpacks to %d bytes, at most %d are taken from a ZIP file of %d: is it a bomb?",
				name, printable(file), unpacked, growthMax, size)
		}
	}
	return a, nil
}

func (a archive) has(file string) bool { return a.files[file] != nil }

// load unpacks a file, to as many bytes as the archive says it has: what all may
// unpack to goes by that.
func (a archive) load(file string) ([]byte, error) {
	f := a.files[file]
	a.read[file] = true
	src, err := f.Open()
	if err != nil {
		return nil, fault(file, 0, "can't be unpacked: %v", err)
	}
	defer func() { _ = src.Close() }()  // it was only read
	size := int64(f.UncompressedSize64) //nolint:gosec // at most fileBytesMax
	data, err := io.ReadAll(io.LimitReader(src, size+1))
	if err != nil {
		return nil, fault(file, 0, "can't be unpacked: %v", err)
	}
	if int64(len(data)) > size {
		return nil, fault(file, 0, "unpacks to more than it says")
	}
	if at, err := jsontext.Check(data); err != nil {
		return nil, fault(file, 1+bytes.Count(data[:at], []byte{'\n'}), "the line %v", err)
	}
	return data, nil
}

// days are the files of a channel, oldest first.
func (a archive) days(channel string) []string {
	var out []string
	for name := range a.files {
		if dir, base := path.Split(name); dir == channel+"/" && strings.HasSuffix(base, ".json") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// foldersMax is how many folders that nothing names are told by name.
const foldersMax = 20

// unread counts the files that nobody asked for, by folder.
func (a archive) unread() map[string]int {
	out := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(a.files)) {
		if a.read[name] {
			continue
		}
		folder, _, inside := strings.Cut(name, "/")
		what := "files beside channels.json that are not of channels"
		if inside {
			what = fmt.Sprintf("files in the folder %q that are not messages of a channel in channels.json", folder)
		}
		if out[what] == 0 && len(out) > foldersMax {
			what = "files in more such folders"
		}
		out[what]++
	}
	return out
}
