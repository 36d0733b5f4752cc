// testapp: a small server and client for pods.
//
//	testapp [-addr :8080] [-echo :9000]   HTTP, and a TCP echo
//	testapp get URL [TIMEOUT]             one request
//	testapp every PERIOD FOR URL          requests, each on a connection of its own: how many failed, how long the slowest took
//	testapp hold ADDRESS FOR              one connection to the echo, used ten times a second
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "get" {
		to := 5 * time.Second
		if len(os.Args) > 3 {
			to, _ = time.ParseDuration(os.Args[3])
		}
		r, err := (&http.Client{Timeout: to}).Get(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		io.Copy(os.Stdout, r.Body)
		return
	}
	if len(os.Args) == 5 && os.Args[1] == "every" {
		every(os.Args[2], os.Args[3], os.Args[4])
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "hold" {
		hold(os.Args[2], os.Args[3])
		return
	}
	addr := flag.String("addr", ":8080", "")
	echo := flag.String("echo", ":9000", "")
	linger := flag.Duration("sleep-on-term", 0, "")
	flag.Parse()
	var ready, live atomic.Bool
	ready.Store(true)
	live.Store(true)
	probe := func(b *atomic.Bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if v := r.URL.Query().Get("set"); v != "" {
				b.Store(v == "1")
			} else if !b.Load() {
				w.WriteHeader(503)
			}
			fmt.Fprintln(w, b.Load())
		}
	}
	http.HandleFunc("/readyz", probe(&ready))
	http.HandleFunc("/healthz", probe(&live))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h, _ := os.Hostname()
		l, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintf(w, "host=%s node=%s local=%v remote=%s\n", h, os.Getenv("NODE_NAME"), l, r.RemoteAddr)
	})
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	go func() { fmt.Println("listening on", *addr); fmt.Println(http.ListenAndServe(*addr, nil)); os.Exit(1) }()
	go serveEcho(*echo)
	s := <-c
	fmt.Println("got", s, "lingering", *linger)
	time.Sleep(*linger)
	fmt.Println("bye")
}

func serveEcho(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			continue
		}
		go func() { io.Copy(c, c); c.Close() }()
	}
}

func duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return d
}

func every(period, total, url string) {
	client := &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	end := time.Now().Add(duration(total))
	ok, failed, slowest, last := 0, 0, time.Duration(0), ""
	for time.Now().Before(end) {
		began := time.Now()
		r, err := client.Get(url)
		if err != nil {
			failed, last = failed+1, err.Error()
		} else {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
			ok++
		}
		if took := time.Since(began); took > slowest {
			slowest = took
		}
		time.Sleep(duration(period))
	}
	fmt.Printf("ok=%d failed=%d slowest=%dms %s\n", ok, failed, slowest.Milliseconds(), last)
}

func hold(addr, total string) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	end, buffer := time.Now().Add(duration(total)), make([]byte, 5)
	for n := 0; ; n++ {
		if time.Now().After(end) {
			fmt.Println("echoes:", n)
			return
		}
		c.SetDeadline(time.Now().Add(60 * time.Second))
		_, err := c.Write([]byte("hello"))
		if err == nil {
			_, err = io.ReadFull(c, buffer)
		}
		if err != nil {
			fmt.Println("failed after", n, "echoes:", err)
			os.Exit(1)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
