package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The link: two network namespaces, and between them nothing but this program, which delays packets and loses some.
// Both namespaces are gone when it ends and nobody is left in them. Other programs get in by `gochisel leash -net`.

const (
	linkMTU    = 1500
	linkNear   = "10.77.0.1"
	linkFar    = "10.77.0.2"
	linkQueued = 1 << 16 // packets on the way in one direction; more are lost
)

// path is one direction of the link. A packet leaves when those before it have left, at the link's rate, and arrives
// delay later. Where the queue is full, or luck wills it, it does not.
type path struct {
	delay, queue     time.Duration // queue: how long a packet may wait to leave
	loss, rate       float64       // rate: bytes per second; 0: any
	luck             *rand.Rand
	from, to         int // tun devices
	packets          chan packet
	buffers          sync.Pool
	passed, lost     atomic.Int64
	overflowed, most atomic.Int64 // most: the longest wait, in nanoseconds
}

type packet struct {
	due  time.Time
	data *[]byte
	size int
}

func runLink(args []string) error {
	var rtt, queue time.Duration
	var loss, rate float64
	var buffers int
	flags := flag.NewFlagSet("link", flag.ExitOnError)
	flags.DurationVar(&rtt, "rtt", 100*time.Millisecond, "round trip; half of it is the delay in each direction")
	flags.DurationVar(&queue, "queue", 100*time.Millisecond, "a packet that would wait longer to leave is lost")
	flags.Float64Var(&loss, "loss", 0, "share of packets that are lost in each direction, 0 to 1")
	flags.Float64Var(&rate, "rate", 0, "bytes per second in each direction; 0: as fast as it goes")
	flags.IntVar(&buffers, "buffers", 64<<20, "most that the kernel may buffer for a connection in either namespace")
	if err := flags.Parse(args); err != nil {
		return err
	}
	near, nearPath, err := newEnd(linkNear, buffers)
	if err != nil {
		return err
	}
	far, farPath, err := newEnd(linkFar, buffers)
	if err != nil {
		return err
	}
	out := &path{delay: rtt / 2, queue: queue, loss: loss, rate: rate, luck: rand.New(rand.NewPCG(1, 0)), from: near, to: far}
	back := &path{delay: rtt / 2, queue: queue, loss: loss, rate: rate, luck: rand.New(rand.NewPCG(2, 0)), from: far, to: near}
	j := newJournal(os.Stdout)
	for name, p := range map[string]*path{"out": out, "back": back} {
		p.start(func(err error) {
			fmt.Fprintf(os.Stderr, "gochisel link, %s: %v\n", name, err)
			os.Exit(1)
		})
	}
	j.emit("up", facts{"near": linkNear, "near_net": nearPath, "far": linkFar, "far_net": farPath})
	follow(os.Stdin, j, func(order) {})
	j.emit("passed", facts{"out": out.facts(), "back": back.facts()})
	return nil
}

func (p *path) facts() facts {
	return facts{
		"passed": p.passed.Load(), "lost": p.lost.Load(), "overflowed": p.overflowed.Load(),
		"longest_wait": time.Duration(p.most.Load()).Seconds(),
	}
}

// start lets packets through; failed is told why it can't go on.
func (p *path) start(failed func(error)) {
	p.packets = make(chan packet, linkQueued)
	p.buffers.New = func() any { b := make([]byte, linkMTU); return &b }
	for _, work := range []func() error{p.take, p.deliver} {
		go func() { failed(work()) }()
	}
}

// take reads what one end sends.
func (p *path) take() error {
	var leaves time.Time
	for {
		data := p.buffers.Get().(*[]byte)
		n, err := unix.Read(p.from, *data)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading packets: %w", err)
		}
		now := time.Now()
		if leaves.Before(now) {
			leaves = now
		}
		wait := leaves.Sub(now)
		switch {
		case p.luck.Float64() < p.loss:
			p.lost.Add(1)
			p.buffers.Put(data)
			continue
		case wait > p.queue || len(p.packets) == cap(p.packets):
			p.overflowed.Add(1)
			p.buffers.Put(data)
			continue
		}
		p.most.Store(max(p.most.Load(), int64(wait)))
		if p.rate > 0 {
			leaves = leaves.Add(time.Duration(float64(n) / p.rate * 1e9))
		}
		p.packets <- packet{leaves.Add(p.delay), data, n}
	}
}

// deliver hands packets to the other end when their time has come, in their order.
func (p *path) deliver() error {
	for next := range p.packets {
		if wait := time.Until(next.due); wait > 0 {
			time.Sleep(wait)
		}
		_, err := unix.Write(p.to, (*next.data)[:next.size])
		p.buffers.Put(next.data)
		// A full device queue is a lost packet, as on any link.
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("writing packets: %w", err)
		}
		p.passed.Add(1)
	}
	return nil
}

// newEnd makes a network namespace with loopback and a tun device, and returns the device's descriptor and a path by
// which the namespace can be entered while this process lives.
func newEnd(addr string, buffers int) (int, string, error) {
	type made struct {
		tun  int
		path string
		err  error
	}
	result := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in another namespace, and ends with this function
		tun, path, err := makeEnd(addr, buffers)
		result <- made{tun, path, err}
	}()
	end := <-result
	return end.tun, end.path, end.err
}

func makeEnd(addr string, buffers int) (int, string, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return 0, "", fmt.Errorf("a network namespace of its own: %w", err)
	}
	namespace, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, "", err
	}
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, "", fmt.Errorf("/dev/net/tun: %w", err)
	}
	device, err := unix.NewIfreq("link0")
	if err != nil {
		return 0, "", err
	}
	device.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, device); err != nil {
		return 0, "", fmt.Errorf("a tun device: %w", err)
	}
	if err := bringUp("lo", ""); err != nil {
		return 0, "", err
	}
	if err := bringUp("link0", addr); err != nil {
		return 0, "", err
	}
	for _, name := range []string{"tcp_rmem", "tcp_wmem"} {
		limits := fmt.Sprintf("4096 131072 %d", buffers)
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(limits), 0o644); err != nil {
			return 0, "", fmt.Errorf("%s: %w", name, err)
		}
	}
	return tun, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), namespace), nil
}

// bringUp gives a device its address, in a network of 256, and switches it on.
func bringUp(name, addr string) error {
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(control)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if addr != "" {
		for _, set := range []struct {
			ioctl uint
			value string
		}{{unix.SIOCSIFADDR, addr}, {unix.SIOCSIFNETMASK, "255.255.255.0"}} {
			if err := request.SetInet4Addr(net.ParseIP(set.value).To4()); err != nil {
				return err
			}
			if err := unix.IoctlIfreq(control, set.ioctl, request); err != nil {
				return fmt.Errorf("the address of %s: %w", name, err)
			}
		}
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(control, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("switching %s on: %w", name, err)
	}
	return nil
}
