package main

import (
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSteadyCountsOnlyInItsWindow(t *testing.T) {
	at := tunnel(t, []string{"load"}, nil, nil)
	for mode, run := range map[string]func(*load, facts) error{"down": (*load).steadyDown, "up": (*load).steadyUp} {
		t.Run(mode, func(t *testing.T) {
			l := load{addrs: []string{at["load"]}, conns: 3, size: 64, probe: true, warm: 50 * time.Millisecond, window: 200 * time.Millisecond}
			result := facts{}
			if err := run(&l, result); err != nil {
				t.Fatal(err)
			}
			slowest, fastest, sum := result["slowest"].(float64), result["fastest"].(float64), result["mb_per_s"].(float64)
			if fastest <= 0 || slowest > fastest || sum < fastest || sum > 3*fastest {
				t.Errorf("got %v", result)
			}
			if result["count"].(int) < 1 || result["p50_us"].(float64) <= 0 {
				t.Errorf("no round trips beside it: %v", result)
			}
		})
	}
}

func TestSteadyCountsOneThatGetsNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go each(func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 100)); time.Sleep(time.Second) })(l)
	run := load{addrs: []string{l.Addr().String()}, conns: 2, warm: time.Millisecond, window: 20 * time.Millisecond}
	result := facts{}
	if err := run.steadyDown(result); err != nil || result["slowest"] != 0.0 {
		t.Errorf("got %v, %v", result, err)
	}
}

// pipes are packets in and out: a datagram keeps its borders, as a tun device's reads and writes do.
func pipes(t *testing.T) (inside, outside int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	return pair[0], pair[1]
}

func startPath(t *testing.T, p *path) (send, receive int) {
	t.Helper()
	p.from, send = pipes(t)
	p.to, receive = pipes(t)
	p.luck = rand.New(rand.NewPCG(1, 0))
	p.start(func(err error) {})
	return send, receive
}

func TestLinkDelaysAndKeepsTheOrder(t *testing.T) {
	send, receive := startPath(t, &path{delay: 50 * time.Millisecond, queue: time.Second})
	began := time.Now()
	for n := range byte(5) {
		_, _ = unix.Write(send, []byte{n})
	}
	data := make([]byte, 10)
	for n := range byte(5) {
		if size, err := unix.Read(receive, data); err != nil || size != 1 || data[0] != n {
			t.Fatalf("got %v, %v", data[:max(size, 0)], err)
		}
	}
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

func TestLinkHasARateAndAQueue(t *testing.T) {
	p := &path{rate: 10_000, queue: 35 * time.Millisecond} // a packet of 100 bytes each 10 ms; four may wait
	send, receive := startPath(t, p)
	began := time.Now()
	for range 10 {
		_, _ = unix.Write(send, make([]byte, 100))
	}
	for range 4 {
		_, _ = unix.Read(receive, make([]byte, 100))
	}
	if took := time.Since(began); took < 40*time.Millisecond {
		t.Errorf("took %v", took)
	}
	if lost := p.overflowed.Load(); lost == 0 {
		t.Error("nothing was lost at a full queue")
	}
}

func TestLinkLosesAShare(t *testing.T) {
	p := &path{loss: 0.2, queue: time.Second}
	send, receive := startPath(t, p)
	go func() {
		for range 1000 {
			_, _ = unix.Write(send, []byte{1})
		}
		for p.lost.Load()+p.overflowed.Load()+p.passed.Load() < 1000 {
			time.Sleep(time.Millisecond)
		}
		unix.Shutdown(receive, unix.SHUT_RD)
	}()
	for {
		if n, _ := unix.Read(receive, make([]byte, 10)); n <= 0 {
			break
		}
	}
	if lost := p.lost.Load(); lost < 140 || lost > 260 {
		t.Errorf("%d of 1000 were lost, expected about 200", lost)
	}
}

func TestBuffersAreHeld(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := (&load{addrs: []string{l.Addr().String()}, buffer: 64 << 10}).connect(0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		for name, option := range map[string]int{"receive": unix.SO_RCVBUF, "send": unix.SO_SNDBUF} {
			// The kernel doubles what is asked for, for its own records (socket(7)).
			if size, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option); err != nil || size != 128<<10 {
				t.Errorf("%s: %d bytes, %v", name, size, err)
			}
		}
	})
}
