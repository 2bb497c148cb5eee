#!/usr/bin/env bash
# Makes the clips of this folder (FFmpeg 5.1). They are committed, so that tests need no FFmpeg.
set -eu
cd "$(dirname "$0")"
make() { ffmpeg -v error -y -f lavfi -i testsrc2=s=96x64:r="$1":d="$2" -map_metadata -1 -fflags +bitexact -flags:v +bitexact "${@:3}"; }
woven="-vf tinterlace=interleave_top,fieldorder=tff -flags:v +ildct+ilme+bitexact"
x264="-c:v libx264 -preset veryslow -crf 34"
x265="-c:v libx265 -crf 34 -x265-params log-level=none:info=0"

# Interlaced, 6 pictures each.
make 50 0.24 $woven $x264 interlaced-h264.mp4
make 50 0.24 $woven $x264 -pix_fmt yuv422p10le interlaced-h264-422-10.mp4
make 50 0.24 $woven $x264 -pix_fmt yuv444p interlaced-h264-444.mp4
make 50 0.24 $woven $x264 -pix_fmt gray interlaced-h264-gray.mp4
make 50 0.24 $woven -c:v libx265 -crf 34 -x265-params log-level=none:info=0:interlace=tff interlaced-hevc.mp4
make 50 0.24 $woven -c:v mpeg2video -q:v 16 interlaced-mpeg2.ts
make 50 0.24 $woven -c:v mpeg4 -q:v 16 interlaced-mpeg4.avi

# Progressive, 6 pictures each (MJPEG and FFV1: 3).
make 25 0.24 $x264 h264.mp4
make 25 0.24 $x264 -pix_fmt yuv422p10le h264-422-10.mp4
make 25 0.24 $x264 -pix_fmt yuvj444p h264-444-full-range.mp4
make 25 0.24 $x264 -pix_fmt gray h264-gray.mp4
make 25 0.24 $x265 -pix_fmt yuv420p10le hevc-10.mp4
make 25 0.24 -c:v mpeg2video -q:v 16 mpeg2.ts
make 25 0.24 -c:v mpeg4 -q:v 16 mpeg4.avi
make 25 0.24 -c:v libvpx-vp9 -crf 50 vp9.webm
make 25 0.12 -c:v mjpeg -q:v 20 mjpeg.avi
make 25 0.12 -s 48x32 -c:v ffv1 -level 3 -pix_fmt bgr0 ffv1-rgb.mkv
make 25 0.24 -s 48x32 animated.gif

# 6 progressive, 6 interlaced, 6 progressive pictures, and the other way round.
make 25 0.24 -c:v mpeg2video -q:v 16 -f mpeg2video p.m2v
make 50 0.24 $woven -c:v mpeg2video -q:v 16 -f mpeg2video i.m2v
cat p.m2v i.m2v p.m2v > mixed-pip.m2v
cat i.m2v p.m2v i.m2v > mixed-ipi.m2v
rm p.m2v i.m2v
