mkdir -p /tmp/site; tar xf .carry/site.txz -C /tmp/site; export PYTHONPATH=/tmp/site:$PWD PYTHONUNBUFFERED=1
timeout 120 python3 gpu_sweep.py 1024,1,240,16384,64,4096,7 > $OUT/sweep.txt 2> $OUT/checks.txt
grep -hE 'FAILED|Error|WRONG' $OUT/checks.txt | sort | uniq -c | head -20
cat $OUT/sweep.txt
N="timeout 40 ncu --set full --clock-control none --launch-skip 3 --launch-count 1 -k network_step --page details"
$N python3 gpu_one.py 4096 8 'dict(ranks=1)' > $OUT/ncu_4096.txt 2>&1
$N python3 gpu_one.py 240 8 'dict(ranks=4)' > $OUT/ncu_240.txt 2>&1
grep -hE 'Duration|DRAM Throughput|Memory Throughput|L2 Cache Throughput|Executed Ipc|Registers Per|Est. Speedup|cycles being stalled|Issued Warp' $OUT/ncu_4096.txt $OUT/ncu_240.txt
python3 gpu_marks.py
for a in "1 1 dict(ranks=16,threads=256)" "64 8 dict(ranks=8)" "240 8 dict(ranks=4)" "1024 8 dict(ranks=1)" "4096 8 dict(ranks=2,threads=256,blocks=2)"; do set -- $a; timeout 30 python3 gpu_one.py $1 $2 $3 trace; done 2>&1 | tee $OUT/trace.txt
