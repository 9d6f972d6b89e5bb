package workload

import "testing"

func TestFigure_IsReadFromABenchmarksLines(t *testing.T) {
	said := `goos: linux
pkg: parley/cell/cassandra
BenchmarkPage/driver-2         	    3021	    742123 ns/op	         0.708 p50-ms	         2.111 p99-ms
BenchmarkPage/raw-2            	    3320	    688112 ns/op	         0.655 p50-ms	         1.902 p99-ms
BenchmarkPut-2	      12	 101 ns/op	      9000 docs/s	         0.9 of-raw	     10000 raw-docs/s
PASS`
	for _, c := range []struct {
		figure
		bench string
		want  float64
	}{
		{figure{"/driver", "p50-ms"}, "BenchmarkPage", 0.708},
		{figure{"/raw", "p50-ms"}, "BenchmarkPage", 0.655},
		{figure{"", "docs/s"}, "BenchmarkPut", 9000},
		{figure{"", "raw-docs/s"}, "BenchmarkPut", 10000},
	} {
		if got, ok := c.of(c.bench, said); !ok || got != c.want {
			t.Errorf("%s%s %s = %v, %v; want %v", c.bench, c.sub, c.unit, got, ok, c.want)
		}
	}
	if _, ok := (figure{"/driver", "marks/s"}).of("BenchmarkPage", said); ok {
		t.Error("a figure that nobody tells is found")
	}
}
